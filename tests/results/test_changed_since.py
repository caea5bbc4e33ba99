"""The list of results whose rule has changed: counted by git, with commands that make them anew."""

import dataclasses
import json
import shlex
import subprocess
from pathlib import Path

import pytest

from beyondprop.catalogue import find_recipe
from beyondprop.cli.arguments import parse
from beyondprop.cli.reproduce import Output
from beyondprop.reproduce import result_path
from beyondprop.training.execution import Execution

RESULTS = Path(__file__).resolve().parents[2] / "results"
OF_MANY_KINDS = ("*/mnist*.json", "mgd/*.json", "spike-timing/*.json", "network-inference/*16*.json")
FILES = sorted({path for pattern in OF_MANY_KINDS for path in RESULTS.glob(pattern)})[::7]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("changed_since")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_command_makes_the_same_file_from_the_same_settings(path, script):
    document = json.loads(path.read_bytes())
    name = path.relative_to(RESULTS).with_suffix("").as_posix()
    program, verb, recipe_id, *flags = shlex.split(script.command_of(document, name))
    assert (program, verb, recipe_id) == ("beyondprop", "reproduce", document["recipe"])
    recipe = find_recipe(recipe_id)
    groups = {"recipe": recipe.settings, "execution": Execution(), "output": Output()}
    _, given = parse(flags, "beyondprop reproduce", "", without=("seed",), **groups)
    assert json.loads(json.dumps(dataclasses.asdict(given.recipe), default=str)).items() >= document["settings"].items()
    assert given.output.seeds == len(document["seeds"])
    assert result_path(recipe, given.recipe, RESULTS, given.output.suffix) == path
    assert (given.execution.precision == "bf16") == ("precision bf16" in document["departures"])


def test_lines_are_counted_since_the_commit(script, tmp_path, monkeypatch):
    def git(*words):
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    monkeypatch.setattr(script, "RESULTS", tmp_path)
    script.changed_lines.cache_clear()
    git("init", "-q")
    module = tmp_path / "rule.py"
    module.write_text("a\nb\nc\n")
    git("add", ".")
    git("commit", "-qm", "first")
    first = git("rev-parse", "HEAD")
    module.write_text("a\nB\nc\nd\n")
    git("commit", "-qam", "second")
    assert script.changed_lines(first, module) == 3  # one line is another, one is new
    assert script.changed_lines(git("rev-parse", "HEAD"), module) == 0
    assert script.changed_lines("0" * 40, module) is None
