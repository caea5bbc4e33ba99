"""How the house is built: imports run downwards, no file is long, no two modules import each other."""

import ast
from pathlib import Path

import pytest

import beyondprop

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "beyondprop"
MODULES = sorted(SOURCE.rglob("*.py"))
FILES = [
    path for folder in ("src", "tests", "benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.py"))
]
MOST_LINES = 400

# From the ground up: a module imports from its own floor and from those below.
FLOORS = (
    {"errors", "checks", "lazy", "generators", "compiled", "transforms", "functional", "sequential"},
    {"inputs"},
    {"rule", "solver"},
    {"layers", "data"},
    {"devices"},
    {"networks", "rules"},  # some networks are made of a rule's parts, and some rules make their network
    {"solvers", "dynamics", "point_processes"},
    {"measure", "recipe"},
    {"training"},
    {"parallel"},
    {"recipes"},
    {"catalogue"},
    {"report"},
    {"estimators", "export", "reproduce", "study", "comparison"},
    {"cli"},
    {"__init__", "__main__"},
)
# Called late, inside a function: a run folder names its recipe, and whoever opens it needs the recipe itself.
LATE = {("training.assembly", "catalogue"), ("training.exported", "catalogue")}


def dotted(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


KNOWN = {dotted(path).removesuffix(".__init__") for path in MODULES}


def imports(path):
    """What a module imports of the library when it runs, by name, and whether it does so inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("beyondprop"):
            # A module, or a name in one; what the package itself gives stands above everything, but for its version.
            inner = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"]
            holder = "beyondprop.__init__" if node.module == "beyondprop" else node.module
            names = [name if name.removeprefix("beyondprop.") in KNOWN else holder for name in inner]
        for name in names:
            if name.startswith("beyondprop."):
                yield name.removeprefix("beyondprop."), id(node) in late


def floor(module):
    top = module.partition(".")[0]
    found = [number for number, floor in enumerate(FLOORS) if top in floor]
    assert found, f"{top} stands on no floor: put it on one"
    return found[0]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_run_downwards(path):
    module = dotted(path)
    if module in {"__init__", "__main__"}:
        pytest.skip("it gives names to all that stands below")
    wrong = [
        name
        for name, late in imports(path)
        if (SOURCE / name.partition(".")[0]).exists() or (SOURCE / f"{name.partition('.')[0]}.py").exists()
        if floor(name) > floor(module) and not (late and (module, name.partition(".")[0]) in LATE)
    ]
    assert not wrong, f"{module} imports from above: {', '.join(wrong)}"


def test_no_two_modules_import_each_other():
    edges = {
        dotted(path).removesuffix(".__init__"): {name for name, late in imports(path) if name in KNOWN and not late}
        for path in MODULES
    }
    done, under_way = set(), []

    def visit(module):
        if module in under_way:
            pytest.fail(f"a circle: {' -> '.join([*under_way[under_way.index(module) :], module])}")
        if module in done:
            return
        under_way.append(module)
        for name in sorted(edges[module]):
            visit(name)
        under_way.pop()
        done.add(module)

    for module in sorted(edges):
        visit(module)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_long(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{path.name} has {lines} lines: cut it where its second subject begins"


@pytest.mark.parametrize("name", beyondprop.__all__)
def test_every_public_name_is_where_it_is_said_to_be(name):
    assert getattr(beyondprop, name) is not None
