"""Plants the defects that ship in this field (signs, scales, layers that never learn) and checks that a test sees each.

    python tests/mutants/mutants.py            all of them
    python tests/mutants/mutants.py schedule   those whose name holds the word

Every mutant is a copy of the source with one line changed; the tests named beside it must fail on it. The checkout is
never changed. Exit status 1 if a mutant survives, or if a line to change is no longer there.
"""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import planted
from mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = tuple(importlib.import_module(f"planted.{module.name}") for module in pkgutil.iter_modules(planted.__path__))
MUTANTS = tuple(mutant for family in FAMILIES for mutant in family.MUTANTS)


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the mutant's tests pass on a source tree with the defect in it."""
    package = folder / "beyondprop"
    shutil.copytree(ROOT / "src" / "beyondprop", package, ignore=shutil.ignore_patterns("__pycache__"))
    target = package / mutant.file
    source = target.read_text()
    if mutant.old not in source:
        raise SystemExit(f"{mutant.name}: {mutant.old!r} is not in {mutant.file} any more; mend the mutant")
    target.write_text(source.replace(mutant.old, mutant.new, 1))
    if "native" in target.parts:
        subprocess.run([sys.executable, str(target.with_name("build.py"))], capture_output=True, check=True)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-o", f"pythonpath={folder}"]
    command = [sys.executable, "-m", "pytest", *options, *mutant.tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode > 1:  # 1: tests failed, below 0: a kernel crashed; anything else: they did not run
        raise SystemExit(f"{mutant.name}: the tests could not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main(word: str = "") -> int:
    """Try every mutant whose name holds a word; return the exit status."""
    chosen = [mutant for mutant in MUTANTS if word in mutant.name]
    survivors = []
    for mutant in chosen:
        with tempfile.TemporaryDirectory() as folder:
            alive = survives(mutant, Path(folder))
        print(f"{'SURVIVED' if alive else 'caught  '}  {mutant.name}", flush=True)
        survivors += [mutant.name] * alive
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} planted defects caught")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(__doc__ if "--help" in sys.argv else main(*sys.argv[1:]))
