"""The script that works through PENDING.md in calls of minutes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "results" / "run_pending.py"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("run_pending")


def test_every_pending_line_is_a_reproduction_of_a_recipe_that_exists(script):
    from beyondprop.catalogue import find_recipe

    text = script.PENDING.read_text()
    lines = script.commands(text, "")
    assert len(lines) == sum(line.startswith("beyondprop ") for line in text.splitlines())
    for command in lines:
        find_recipe(command[2])
    assert len(script.commands(text, "--device cuda")) < len(lines)


@pytest.fixture
def pending(tmp_path: Path):
    """A list of one reproduction that takes some seconds; the arguments of a call."""
    small = "--epochs 200 --first-width 2 --hidden 8 --batch-size 32 --seeds 1 --threads 1 --device cpu"
    (tmp_path / "PENDING.md").write_text(f"# list\n\nbeyondprop reproduce noprop-fm/digits {small}\n")
    call = ["--runs", str(tmp_path / "runs"), "--pending", str(tmp_path / "PENDING.md")]
    return [*call, "--results", str(tmp_path / "results"), "--only", "digits"]


def steps_of(runs: Path):
    """The numbers of the steps that were trained, in order, of the only run there is."""
    (metrics,) = runs.rglob("metrics.jsonl")
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines() if "loss" in line]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interrupted_in_one_call_and_resumed_in_the_next(script, tmp_path: Path, pending, capsys):
    status, calls = 3, 0
    seen = []
    for minutes in ("0.3", "0.3", "5", "5"):  # two short calls end in the midst of it, also on a fast machine
        if status != 3:
            break
        status, calls = script.main([*pending, "--minutes", minutes]), calls + 1
        seen.append(len(steps_of(tmp_path / "runs")) if any((tmp_path / "runs").rglob("metrics.jsonl")) else 0)
    assert status == 0
    assert calls > 1
    assert seen == sorted(seen)  # nothing was begun anew
    told = capsys.readouterr().out
    assert told.count("left    beyondprop reproduce noprop-fm/digits") == calls - 1
    assert "done    beyondprop" in told
    document = json.loads((tmp_path / "results" / "noprop-fm" / "digits.json").read_text())
    assert document["recipe"] == "noprop-fm/digits"


@pytest.mark.slow
def test_nothing_runs_on_when_the_call_is_ended(script, tmp_path: Path, pending):
    call = [sys.executable, str(SCRIPT), *pending, "--minutes", "5"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 60
    while not any(runs.rglob("metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "left" in told
    children = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert children.stdout == ""


def test_a_process_that_will_not_leave_is_killed_and_gone(script, monkeypatch):
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        monkeypatch.setattr(script, "GRACE", 0.2)
        script._interrupt([process])
        assert process.returncode == -signal.SIGKILL  # waited for, so that nothing is left of it


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
