"""`train` and `evaluate`, on a real recipe made as small as it goes, and on a stand-in for what takes time."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from beyondprop.cli import main
from beyondprop.cli.train import summarise
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training import Outcome

SMALL = ["--epochs", "1", "--batch-size", "512", "--steps", "2", "--first-width", "2", "--hidden", "8"]
SMALL += ["--threads", "1"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts a stand-in in the place of training; gives the list of its calls."""
    made: list[dict[str, Any]] = []

    def stand_in(recipe: Any, settings: Any, execution: Any, folder: Path, **options: Any) -> Outcome:
        made.append({"recipe": recipe.id, "settings": settings, "execution": execution, "folder": folder, **options})
        Path(folder).mkdir(parents=True, exist_ok=True)
        return Outcome({"test_accuracy": 0.5}, Path(folder), 1.5, 100.0, 10, [])

    monkeypatch.setattr("beyondprop.training.train", stand_in)
    return made


def test_small_run_is_trained_told_and_measured(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "noprop-dt/digits", *SMALL, "--validation", "100"]) == 0
    told = capsys.readouterr()
    folder = runs / "noprop-dt" / "digits" / "seed-0"
    lines = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in told.out.splitlines()}
    assert "epoch" in told.err
    assert lines["test accuracy"].endswith(" %")
    assert Path(lines["curves"]).is_file()

    assert main(shlex.split(lines["evaluate"])[1:]) == 0
    text = capsys.readouterr().out
    assert "block 2" in text
    assert lines["test accuracy"] in text

    assert "resume" not in lines  # there is nothing left of it; if it is done all the same, its outcome is told again
    assert main(["train", "noprop-dt/digits", *SMALL, "--validation", "100", "--resume"]) == 0
    assert lines["test accuracy"] in capsys.readouterr().out

    for split, count in (("test", 360), ("validation", 100), ("train", 1337)):
        assert main(["evaluate", str(folder), "--split", split, "--json"]) == 0
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert figures["count"] == count
        assert 0 <= figures["accuracy"] <= 1
        assert len(figures[f"block_{split}_accuracy"]) == 2

    assert main(["evaluate", "noprop-dt/digits/seed-0"]) == 0  # below $BEYONDPROP_RUNS
    capsys.readouterr()

    for each in folder.glob("checkpoint-*"):
        shutil.rmtree(each)
    assert main(["train", "noprop-dt/digits", *SMALL, "--validation", "100", "--resume"]) == 0
    told = capsys.readouterr().out
    assert lines["test accuracy"] in told
    assert "checkpoint     lost" in told
    assert "beyondprop evaluate" not in told


@pytest.mark.parametrize(
    ("flags", "parameters", "passes"),
    [(["noprop-dt/digits", *SMALL], "2,506", 1), (["rescnet/digits", "--layers", "2"], "8,116", 2)],
)
@pytest.mark.usefixtures("runs")
def test_what_is_trained_is_told_first(
    flags: list[str], parameters: str, passes: int, capsys: pytest.CaptureFixture[str]
):
    assert main(["train", *flags, "--batch-size", "2000", "--validation", "100", "--seed", "5"]) == 0
    data = "training samples 1,337  held out 100  batches a pass 1"
    told = f"{flags[0]}  parameters {parameters}  {data}  passes {passes}  seed 5  cpu"
    assert capsys.readouterr().err.splitlines()[0] == told


def test_every_picture_of_a_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("curves.png", "forecast.png", "forecast.csv", "spike-raster.png"):
        (tmp_path / name).write_bytes(b"")
    summarise(Outcome({"test_accuracy": 0.5}, tmp_path, 1.5, 100.0, 10, []))
    told = capsys.readouterr().out
    assert f"curves         {tmp_path / 'curves.png'}\n" in told
    assert f"forecast       {tmp_path / 'forecast.png'} and .csv\n" in told
    assert f"spike raster   {tmp_path / 'spike-raster.png'}\n" in told


def test_validation_split_must_have_been_held_out(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "bp/digits", *SMALL, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["evaluate", "bp/digits/seed-0", "--split", "validation"]) == 2
    assert "--validation COUNT" in capsys.readouterr().err


def test_json_is_the_last_line_of_a_process(runs: Path):
    command = [sys.executable, "-m", "beyondprop", "train", "bp/digits", *SMALL, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["recipe"] == "bp/digits"
    assert document["settings"]["epochs"] == 1
    assert document["folder"] == str(runs / "bp" / "digits" / "seed-0")
    assert 0 <= document["metrics"]["test_accuracy"] <= 1
    assert "epoch 1/1" in done.stderr


def test_flags_reach_the_training(calls: list[dict[str, Any]], tmp_path: Path):
    line = "train noprop-dt/mnist --epochs 5 --lr-schedule one-cycle --learning_rate 0.01 --noise --device cpu --seed 3"
    out = ["--precision", "bf16", "--threads", "2", "--out", str(tmp_path / "run"), "--resume", "--tensorboard"]
    assert main([*line.split(), *out, "--quiet"]) == 0
    (call,) = calls
    settings, execution = call["settings"], call["execution"]
    assert call["recipe"] == "noprop-dt/mnist"
    assert (settings.epochs, settings.lr_schedule, settings.learning_rate, settings.noise) == (
        5,
        "one-cycle",
        0.01,
        True,
    )
    assert settings.batch_size == 128
    assert (execution.device, execution.seed, execution.precision, execution.threads) == ("cpu", 3, "bf16", 2)
    assert call["folder"] == tmp_path / "run"
    assert (call["resume"], call["tensorboard"], call["progress"]) == (True, True, False)


@pytest.mark.parametrize("argv", [["train"], ["train", "--json"], ["train", "--epochs", "30", "--json"]])
def test_default_recipe(argv: list[str], runs: Path, calls: list[dict[str, Any]]):
    assert main(argv) == 0
    assert calls[0]["recipe"] == "noprop-dt/digits"


def test_recipe_may_stand_behind_a_switch(runs: Path, calls: list[dict[str, Any]]):
    assert main(["train", "--json", "bp/digits"]) == 0
    assert calls[0]["recipe"] == "bp/digits"


def test_each_run_has_a_folder_of_its_own_unless_resumed(runs: Path, calls: list[dict[str, Any]]):
    for argv in (["--resume"], [], [], ["--resume"], ["--seed", "1"]):
        assert main(["train", *argv]) == 0
    names = [str(call["folder"].relative_to(runs / "noprop-dt" / "digits")) for call in calls]
    assert names == ["seed-0", "seed-0-2", "seed-0-3", "seed-0-3", "seed-1"]


@pytest.mark.usefixtures("calls")
def test_who_resumes_what_is_not_there_is_told_that_it_begins_anew(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for flags in (["--out", str(tmp_path / "mistyped")], []):
        assert main(["train", "bp/digits", "--resume", *flags]) == 0
        assert capsys.readouterr().err.endswith("holds no run to go on with: this one begins anew\n")
    there = runs / "bp" / "digits" / "seed-0"
    (there / "settings.json").touch()
    assert main(["train", "bp/digits", "--resume", "--out", str(there)]) == 0
    assert "anew" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: 9 bytes\nframe"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_too_little_memory_is_told_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def ended(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Backprop, "backward", ended)
    assert main(["train", "bp/digits", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is not enough memory (")
    assert "smaller --batch-size" in line


@pytest.mark.usefixtures("runs")
def test_other_errors_of_torch_are_raised_as_they_are(monkeypatch: pytest.MonkeyPatch):
    def ended(*_: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Backprop, "backward", ended)
    with pytest.raises(RuntimeError, match="shapes cannot"):
        main(["train", "bp/digits", "--quiet"])


@pytest.mark.parametrize(
    ("damage", "told"), [({"execution": {"seed": "a"}}, "--seed must be"), ({"settings": 3}, "damaged")]
)
def test_damaged_settings_are_told_when_evaluating(
    damage: dict[str, Any], told: str, runs: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["train", "bp/digits", *SMALL, "--quiet"]) == 0
    path = runs / "bp" / "digits" / "seed-0" / "settings.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | damage))
    capsys.readouterr()
    assert main(["evaluate", str(path.parent)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path.parent} cannot be built with its settings" in line
    assert told in line
    path.write_text(whole)
    for checkpoint in path.parent.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert main(["evaluate", str(path.parent)]) == 2
    assert "has lost its checkpoint: restore it, or train anew" in capsys.readouterr().err


def test_interrupted_run_tells_how_to_go_on(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("stopped after step 3")

    monkeypatch.setattr("beyondprop.training.train", interrupted)
    assert main(["train", "bp/digits", "--epochs", "2"]) == 130
    folder = runs / "bp" / "digits" / "seed-0"
    expected = f"stopped after step 3; go on with: beyondprop train bp/digits --epochs 2 --out {folder} --resume\n"
    assert capsys.readouterr().err == expected


def test_several_trainings_need_not_have_been_before_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name, command in (("comparison.compare", ["compare"]), ("study.study", ["study"])):
        monkeypatch.setattr(f"beyondprop.{name}", interrupted)
        assert main([*command, "bp/digits", "dfa/digits"]) == 130
        assert capsys.readouterr().err == "interrupted; the same command goes on from there\n"


@pytest.mark.parametrize(
    ("command", "way"),
    [
        (["train", "bp/digits"], "go on with: beyondprop train bp/digits --epochs 1"),
        (["reproduce", "bp/digits", "--seeds", "1"], "the same command goes on from there"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_the_way_to_go_on_is_told_once(
    command: list[str], way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)  # the results that are committed are not to be replaced
    monkeypatch.setattr(Backprop, "backward", lambda self, *_: os.kill(os.getpid(), signal.SIGINT) or torch.zeros(()))
    assert main([*command, *SMALL, "--quiet"]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"interrupted after 1 steps; the checkpoint is saved; {way}")
    assert line.count("go on") + line.count("goes on") == 1


def test_the_device_is_the_runs_unless_another_is_asked_for(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "bp/digits", *SMALL, "--device", "cpu", "--quiet"]) == 0
    settings = runs / "bp" / "digits" / "seed-0" / "settings.json"
    settings.write_text(settings.read_text().replace('"device": "cpu"', '"device": "teapot"'))
    evaluate = ["evaluate", "bp/digits/seed-0"]
    assert main(evaluate) == 2
    assert "no device named 'teapot'" in capsys.readouterr().err
    assert main([*evaluate, "--device", "auto"]) == 0  # as `train` takes it: what there is


def test_evaluation_by_steps_gives_a_table_and_a_picture(runs: Path, capsys: pytest.CaptureFixture[str]):
    small = ["--epochs", "1", "--batch-size", "512", "--first-width", "2", "--hidden", "8", "--threads", "1"]
    assert main(["train", "noprop-fm/digits", *small, "--quiet"]) == 0
    folder = runs / "noprop-fm" / "digits" / "seed-0"
    evaluate = ["evaluate", "noprop-fm/digits/seed-0"]
    capsys.readouterr()

    assert main([*evaluate, "--json"]) == 0
    as_trained = json.loads(capsys.readouterr().out)
    assert as_trained["inference"] == {"steps": 20, "method": "euler", "grid": "uniform", "start": "zero"}
    assert as_trained["accuracy"] == as_trained["test_accuracy_in_20_steps"]

    assert main(evaluate) == 0
    told = capsys.readouterr().out
    assert "test accuracy in 1 step  " in told
    assert "test accuracy in 20 steps  " in told

    assert main([*evaluate, "--steps", "20", "1", "3", "--json"]) == 0
    by_steps = json.loads(capsys.readouterr().out)["by_steps"]
    assert list(by_steps) == ["1", "3", "20"]
    assert by_steps["20"]["loss"] == as_trained["loss"]
    assert (folder / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert main([*evaluate, "--steps", "3", "1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["steps", "1", "3"]
    assert f"{100 * by_steps['3']['accuracy']:.2f} %" in table[3]

    assert main([*evaluate, "--steps", "3", "--method", "heun", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["inference"]["steps"], figures["inference"]["method"]) == (3, "heun")
    assert figures["loss"] != by_steps["3"]["loss"]
    assert "test_accuracy_in_1_steps" not in figures  # they are of the run's own inference


def test_evaluation_takes_the_flags_of_the_runs_recipe_alone(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "noprop-dt/digits", *SMALL, "--quiet"]) == 0
    evaluate = ["evaluate", "noprop-dt/digits/seed-0"]
    assert main([*evaluate, "--readout", "last-block", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inference"]["readout"] == "last-block"
    for flags, complaint in (
        (["--steps", "3"], "does not choose its steps"),
        (["--eta", "3"], "no flag --eta"),
        (["--readout", "first"], "invalid choice 'first'"),
    ):
        assert main([*evaluate, *flags]) == 2
        assert complaint in capsys.readouterr().err
