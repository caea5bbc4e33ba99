"""The script that works through PENDING.md in calls of minutes."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "results" / "run_pending.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_pending", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_pending_line_is_a_reproduction_of_a_recipe_that_exists(script):
    from beyondprop.catalogue import find_recipe

    text = script.PENDING.read_text()
    lines = script.commands(text, "")
    assert len(lines) == sum(line.startswith("beyondprop ") for line in text.splitlines())
    for command in lines:
        find_recipe(command[2])
    assert len(script.commands(text, "--device cuda")) < len(lines)


def test_interrupted_in_one_call_and_finished_in_the_next(script, tmp_path: Path, capsys):
    small = "--epochs 400 --first-width 2 --hidden 8 --batch-size 64 --seeds 1 --threads 1 --device cpu"
    (tmp_path / "PENDING.md").write_text(f"# list\n\nbeyondprop reproduce noprop-fm/digits {small}\n")
    call = ["--runs", str(tmp_path / "runs"), "--pending", str(tmp_path / "PENDING.md")]
    call += ["--results", str(tmp_path / "results"), "--only", "digits"]
    assert script.main([*call, "--minutes", "0.15"]) == 3
    assert "left    beyondprop reproduce noprop-fm/digits" in capsys.readouterr().out
    text = (tmp_path / "PENDING.md").read_text()
    (tmp_path / "PENDING.md").write_text(text.replace("--epochs 400", "--epochs 1"))
    assert script.main([*call, "--minutes", "2"]) == 0
    assert "done    beyondprop" in capsys.readouterr().out
    document = json.loads((tmp_path / "results" / "noprop-fm" / "digits.json").read_text())
    assert document["recipe"] == "noprop-fm/digits"


def test_a_failure_is_told(script, tmp_path: Path):
    done, failed, left = script.run(
        [["beyondprop", "reproduce", "no/recipe"]], jobs=2, seconds=60, logs=tmp_path / "logs"
    )
    assert (done, left) == ([], [])
    assert failed == ["beyondprop reproduce no/recipe"]
    assert "no recipe" in (tmp_path / "logs" / "001.log").read_text()
    (tmp_path / "none.md").write_text("nothing\n")
    with pytest.raises(SystemExit):
        script.main(["--runs", str(tmp_path), "--pending", str(tmp_path / "none.md")])
