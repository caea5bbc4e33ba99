"""Whole runs of processes that were started by hand: each trains apart, and `merge` makes one run of theirs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_parts import EXECUTION, RECIPE, small_settings, small_splits

from beyondprop import cli, parallel, training
from beyondprop.errors import NonFiniteError, RunError, UserError
from beyondprop.parallel import Place
from beyondprop.rules.local.noprop import NoPropDT
from beyondprop.training import Interrupted, RunFolder, checkpoint


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the library catches it."""


@pytest.fixture(autouse=True)
def _small(monkeypatch, undrawn):
    """Every recipe has small data."""
    monkeypatch.setattr("beyondprop.data.load", lambda _: small_splits())


def train_part(folder, rank, ranks, settings=None, **options):
    place = Place(rank=rank, ranks=ranks, by_hand=True)
    options = {"progress": False, **options}
    return parallel.train(RECIPE, settings or small_settings(), EXECUTION, folder, place, **options)


def train_alone(folder, settings=None):
    return training.train(RECIPE, settings or small_settings(), EXECUTION, folder, progress=False)


def weights(folder):
    ((_, newest),) = checkpoint.standing(Path(folder))
    return load_file(newest / "model.safetensors")


def assert_same_weights(ours, theirs):
    ours, theirs = weights(ours), weights(theirs)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beyondprop.data.load", lambda _: small_splits())
        folder = tmp_path_factory.mktemp("alone") / "run"
        return SimpleNamespace(folder=folder, outcome=train_alone(folder))


@pytest.mark.parametrize("order", [[0, 1], [2, 0, 1]])
def test_the_merged_run_is_the_run_of_one_process_bit_by_bit(tmp_path, alone, order):
    run = tmp_path / "run"
    for rank in order:
        assert train_part(run, rank, len(order)) is None
    outcome = parallel.merge(run)
    assert_same_weights(run, alone.folder)
    assert outcome.metrics == alone.outcome.metrics
    result = json.loads((run / "result.json").read_text())
    assert result["sent_bytes_per_step"] == [0] * len(order)
    assert (result["ranks"], result["data_parallel"]) == (len(order), 1)
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, alone.folder)
    )
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], rel=1e-5)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    loaded = training.load_run(run)
    assert loaded.evaluate(loaded.splits.test)["accuracy"] == outcome.metrics["test_accuracy"]
    assert parallel.merge(run) == outcome


def test_the_average_of_the_weights_and_cross_entropy_are_shared_out_to_the_same_bits(tmp_path):
    settings = small_settings(ema=0.9, error="cross-entropy", epochs=1)
    train_alone(tmp_path / "alone", settings)
    for rank in range(2):
        train_part(tmp_path / "run", rank, 2, settings)
    parallel.merge(tmp_path / "run")
    assert_same_weights(tmp_path / "run", tmp_path / "alone")


def test_one_block_in_every_pass_can_be_shared_out_too(tmp_path):
    settings = small_settings(order="one-by-one", epochs=1)
    train_alone(tmp_path / "alone", settings)
    for rank in range(2):
        train_part(tmp_path / "run", rank, 2, settings)
    parallel.merge(tmp_path / "run")
    assert_same_weights(tmp_path / "run", tmp_path / "alone")


def test_a_process_that_was_killed_goes_on_alone(tmp_path, alone, monkeypatch):
    run, calls, assign_credit = tmp_path / "run", [], NoPropDT.assign_credit

    def killed(self, *arguments):
        calls.append(arguments)
        if len(calls) == 7:  # the second step of the second epoch
            raise Killed
        return assign_credit(self, *arguments)

    train_part(run, 0, 2)
    with monkeypatch.context() as patch:
        patch.setattr(NoPropDT, "assign_credit", killed)
        with pytest.raises(Killed):
            train_part(run, 1, 2, checkpoint_seconds=0)
    with pytest.raises(RunError, match=r"not all 2 parts have finished: rank 1 stopped before the end \(resume\)$"):
        parallel.merge(run)
    others = {path: path.stat().st_mtime_ns for path in (run / "rank-0").rglob("*")}
    train_part(run, 1, 2, resume=True)
    assert {path: path.stat().st_mtime_ns for path in (run / "rank-0").rglob("*")} == others
    parallel.merge(run)
    assert_same_weights(run, alone.folder)


def test_a_merge_that_was_killed_is_made_again(tmp_path, alone, monkeypatch):
    run = tmp_path / "run"
    for rank in range(2):
        train_part(run, rank, 2)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("beyondprop.parallel.merging.write_outcome", killed)
        with pytest.raises(Killed):
            parallel.merge(run)
    outcome = parallel.merge(run)
    assert outcome.metrics == alone.outcome.metrics
    lines = [(folder / "metrics.jsonl").read_text().count("\n") for folder in (run, alone.folder)]
    assert lines[0] == lines[1]


def test_parts_that_do_not_belong_together_are_refused(tmp_path, one_line):
    run = tmp_path / "run"
    with one_line(RunError, "holds no parts"):
        parallel.merge(run)
    assert not run.exists()
    train_part(run, 0, 2, small_settings(epochs=1))
    with one_line(RunError, "not all 2 parts have finished", "rank 1 missing", "copy the folder"):
        parallel.merge(run)
    with one_line(RunError, "rank-0", "ranks is 2, not 3"):
        train_part(run, 0, 3, small_settings(epochs=1), resume=True)
    train_part(run, 1, 2, small_settings(epochs=1, eta=0.5))
    with one_line(RunError, "rank-1", "settings.eta is 0.5, not 0.1"):
        parallel.merge(run)
    shutil.rmtree(run / "rank-1")
    train_part(run, 1, 2, small_settings(epochs=1))
    (run / "rank-1" / "metrics.jsonl").write_text("{")
    with one_line(RunError, "rank-1", "cannot be read"):
        parallel.merge(run)
    shutil.rmtree(next((run / "rank-1").glob("checkpoint-*")))
    with one_line(RunError, "rank 1 has no checkpoint"):
        parallel.merge(run)
    train_alone(tmp_path / "whole" / "rank-0", small_settings(epochs=1))
    with one_line(RunError, "rank-0 holds no part"):
        parallel.merge(tmp_path / "whole")


def test_all_parts_that_hold_a_merge_up_are_named_by_what_is_to_be_done(tmp_path, one_line):
    run = tmp_path / "run"
    train_part(run, 0, 5, small_settings(epochs=1, steps=5))
    for rank in (2, 4):
        shutil.copytree(run / "rank-0", run / f"rank-{rank}")
        settings = run / f"rank-{rank}" / "settings.json"
        settings.write_text(settings.read_text().replace('"rank": 0', f'"rank": {rank}'))
        (run / f"rank-{rank}" / "result.json").unlink()
    stored = json.loads((run / "rank-4" / "settings.json").read_text())
    about = {name: value for name, value in stored.items() if name not in ("commits", "versions")}
    with (
        RunFolder(run / "rank-4", about, resume=True),
        one_line(RunError, "rank 1, 3 missing (", "; rank 2 stopped before the end (", "; rank 4 still training"),
    ):
        parallel.merge(run)
    with one_line(RunError, "rank 1, 3 missing (", "; rank 2, 4 stopped before the end ("):
        parallel.merge(run)


def test_parts_that_are_not_merged_are_told_to_be_so(tmp_path, one_line):
    run = tmp_path / "by hand"
    train_part(run, 0, 2, small_settings(epochs=1))
    with one_line(RunError, "parts of a run that are not merged", f"beyondprop merge '{run}'"):
        training.load_run(run)


def test_a_part_is_no_network_to_be_evaluated(tmp_path, one_line):
    run = tmp_path / "run"
    train_part(run, 0, 2, small_settings(epochs=1))
    with one_line(RunError, "holds a part of a network", str(run)):
        training.load_run(run / "rank-0")


@pytest.mark.parametrize(
    ("settings", "named"),
    [(small_settings(embedding="learned", dim=4), "torchrun"), (small_settings(steps=1), "cannot share out 1 blocks")],
)
def test_a_training_that_cannot_be_shared_out_so_leaves_nothing(tmp_path, settings, named, one_line):
    with one_line(UserError, named):
        train_part(tmp_path / "run", 0, 2, settings)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(capsys, *words):
    status = cli.main([*words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


FLAGS = ("--epochs", "1", "--steps", "2", "--first-width", "2", "--hidden", "4", "--device", "cpu", "--threads", "1")


def test_the_commands(tmp_path, capsys):
    run = str(tmp_path / "run")
    for rank in ("0", "1"):
        part = ("train", "noprop-dt/digits", *FLAGS, "--rank", rank, "--ranks", "2", "--out", run)
        status, out, _ = command(capsys, *part)
        assert status == 0
        assert f"beyondprop merge {run}" in out
    status, out, _ = command(capsys, "merge", run, "--json")
    assert status == 0
    merged = json.loads(out.splitlines()[-1])
    status, out, _ = command(capsys, "evaluate", run, "--json")
    assert status == 0
    assert json.loads(out.splitlines()[-1])["accuracy"] == merged["metrics"]["test_accuracy"]
    status, out, _ = command(capsys, "merge", run)
    assert status == 0
    assert "test accuracy" in out
    assert "resume" not in out  # there is nothing left to train


@pytest.mark.parametrize(
    ("words", "environment", "named"),
    [
        (("bp/digits", "--rank", "0", "--ranks", "2", "--out", "x"), {}, "rank 0: Backprop cannot be shared out"),
        (("noprop-dt/digits", "--rank", "0", "--out", "x"), {}, "--ranks"),
        (("noprop-dt/digits", "--out", "x"), {"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        (("noprop-dt/digits", "--out", "x", "--data-parallel", "2"), {}, "torchrun"),
    ],
)
@pytest.mark.usefixtures("_elsewhere")
def test_what_the_command_line_refuses(monkeypatch, capsys, words, environment, named):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, out, err = command(capsys, "train", *words)
    assert status == 2
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert not list(Path().iterdir())


def test_merge_needs_a_folder(capsys):
    assert command(capsys, "merge")[0] == 2


def test_one_process_of_torchrun_is_an_ordinary_run(tmp_path, monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    assert command(capsys, "train", "noprop-dt/digits", *FLAGS, "--out", str(run))[0] == 0
    assert (run / "result.json").exists()
    assert not (run / "rank-0").exists()


def test_a_loss_that_is_not_finite_names_the_rank(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise NonFiniteError("the loss of block 2 is nan")

    monkeypatch.setattr(NoPropDT, "assign_credit", broken)
    words = ("train", "noprop-dt/digits", *FLAGS, "--rank", "1", "--ranks", "2", "--out", str(tmp_path / "run"))
    assert command(capsys, *words, "--quiet") == (2, "", "error: rank 1: the loss of block 2 is nan\n")


def test_an_interruption_names_the_rank(tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise Interrupted("interrupted after 3 steps; the checkpoint is saved")

    monkeypatch.setattr(parallel, "train", stopped)
    said = "interrupted after 3 steps; the checkpoint is saved"
    train = ("train", "noprop-dt/digits", "--out", "x")
    again = "go on with: beyondprop train noprop-dt/digits --out x --rank 1 --ranks 2 --resume"
    for resume in ((), ("--resume",)):
        given = command(capsys, *train, "--rank", "1", "--ranks", "2", *resume)
        assert given == (130, "", f"rank 1: {said}; {again}\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for rank, way in (("0", "; once torchrun has ended, the same torchrun command goes on with --resume"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert command(capsys, *train) == (130, "", f"rank {rank}: {said}{way}\n")


def test_the_summary_of_processes_of_torchrun_names_no_command_to_resume(tmp_path, monkeypatch, capsys):
    outcome = training.Outcome({"test_accuracy": 0.5}, tmp_path, 1.5, 100.0, 10, [])
    monkeypatch.setattr(parallel, "train", lambda *_, **__: outcome)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    status, out, _ = command(capsys, "train", "noprop-dt/digits", "--out", str(tmp_path))
    assert status == 0
    assert "evaluate" in out
    assert "resume" not in out
    assert "merge" not in out


@pytest.mark.slow
def test_sigkill_of_one_process(tmp_path, monkeypatch):
    """By the command line, on the digits: one of two is killed after its first checkpoint and goes on alone."""
    monkeypatch.undo()  # the real digits, the real disk
    flags = ["--epochs", "12", "--steps", "4", "--first-width", "4", "--hidden", "16", "--threads", "1", "--quiet"]
    train = [sys.executable, "-m", "beyondprop", "train", "noprop-dt/digits", *flags]
    subprocess.run([*train, "--out", tmp_path / "alone"], check=True)
    run = tmp_path / "run"
    subprocess.run([*train, "--rank", "0", "--ranks", "2", "--out", run], check=True)
    part = [*train, "--rank", "1", "--ranks", "2", "--out", run]
    process = subprocess.Popen(part)
    deadline = time.monotonic() + 120
    while not list((run / "rank-1").glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (run / "rank-1" / "result.json").exists()
    subprocess.run([*part, "--resume"], check=True)
    parallel.merge(run)
    assert_same_weights(run, tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["one-hot", "learned"])
def test_torchrun_starts_again_what_has_died(tmp_path, embedding):
    """A process kills itself once; with --max-restarts the run ends as if nothing had been."""
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, signal, sys\n"
        "from beyondprop import cli\n"
        "from beyondprop.parallel.share import Share\n"
        "calls, backward = [], Share.backward\n"
        "def dies(self, *batch):\n"
        "    calls.append(1)\n"
        "    if (os.environ['RANK'], os.environ['TORCHELASTIC_RESTART_COUNT'], len(calls)) == ('1', '0', 40):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return backward(self, *batch)\n"
        "Share.backward = dies\n"
        "sys.exit(cli.main())\n"
    )
    flags = ["--epochs", "6", "--steps", "4", "--first-width", "4", "--hidden", "16", "--embedding", embedding]
    words = ["train", "noprop-dt/digits", *flags, "--quiet", "--threads", "1", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    subprocess.run([*torchrun, "--max-restarts=1", script, *words, tmp_path / "dies"], check=True)
    if embedding == "one-hot":
        subprocess.run([sys.executable, "-m", "beyondprop", *words, tmp_path / "other"], check=True)
    else:  # the sum over processes is another one than that over blocks
        subprocess.run([*torchrun, "-m", "beyondprop", *words, tmp_path / "other"], check=True)
    assert_same_weights(tmp_path / "dies", tmp_path / "other")
    assert os.environ.get("WORLD_SIZE") is None
