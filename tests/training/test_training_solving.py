"""A recipe whose experiment holds a solver: its passes, its run folder, going on, evaluating, reproducing."""

import json
import os
import re
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from small_training import Killed, metrics, same
from torch import nn

import beyondprop.cli.train  # noqa: F401  # before the catalogue knows but one recipe, which it would take over
from beyondprop import cli, parallel
from beyondprop.data import Splits, image_set
from beyondprop.errors import NonFiniteError, RunError, UserError
from beyondprop.recipe import Experiment, Recipe, SolverSettings
from beyondprop.report.tables import results_table
from beyondprop.reproduce import reproduce
from beyondprop.solver import Solver
from beyondprop.solvers.cascaded_forward import CascadedLeastSquares
from beyondprop.training import Execution, Interrupted, load_run, train
from beyondprop.training.checkpoint import load
from beyondprop.training.progress import Display

EXECUTION = Execution(device="cpu", seed=2)
PASSES = ["statistics 1", "predictor 1", "predictor 2"]
BATCHES = [2, 5, 5]  # of 32 of 160 images; the first pass needs no more than 50


@dataclass(frozen=True, kw_only=True)
class CascadeSettings(SolverSettings):
    batch_size: int = 32
    ridge: float = 1e-3


def build(settings, splits):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    options = {"ridge": settings.ridge, "memory": 0, "statistics_samples": 50}
    return Experiment(CascadedLeastSquares(network, torch.zeros(2, 1, 6, 6), 3, **options))


RECIPE = Recipe("cafo/stripes", "for the tests", "digits", CascadeSettings(), build)


class Drawing(Solver):
    """What it finds is random: only with the generators' states does it go on to the same bits."""

    passes = ("first", "second")

    def __init__(self):
        super().__init__()
        self.found = nn.Parameter(torch.zeros(2, 3), requires_grad=False)

    @classmethod
    def for_classifier(cls, network, example, classes, **options):
        return cls()

    def begin(self, part):
        self.sum = torch.rand(3)

    def absorb(self, x, y, part):
        self.sum += torch.rand(3) * x.mean()

    def conclude(self, part):
        self.found[self.passes.index(part)] = self.sum

    def forward(self, x):
        return x.flatten(1)[:, :3] + self.found.sum(dim=0)


DRAWING = replace(RECIPE, build=lambda settings, splits: Experiment(Drawing()))


@pytest.fixture
def splits(monkeypatch):
    """Stripes in one of three directions, with noise; the catalogue knows the recipe alone."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    patterns = torch.stack([rows % 2, columns % 2, (rows + columns) % 2])
    noise = torch.randint(0, 90, (240, 6, 6), generator=generator)
    images = (patterns[labels] * 160 + noise).to(torch.uint8)
    splits = Splits(image_set(images[:160], labels[:160]), image_set(images[160:], labels[160:]))
    monkeypatch.setattr("beyondprop.catalogue.find_recipe", {RECIPE.id: RECIPE}.get)
    monkeypatch.setattr("beyondprop.data.load", lambda _: splits)
    return splits


def run(folder, recipe=RECIPE, **options):
    return train(recipe, recipe.settings, EXECUTION, folder, **{"progress": False, **options})


def noting(recipe, passes):
    """The recipe, with a solver that notes which passes it begins."""

    def noting_build(settings, splits):
        experiment = recipe.build(settings, splits)
        begin = experiment.rule.begin
        experiment.rule.begin = lambda part: passes.append(part) or begin(part)
        return experiment

    return replace(recipe, build=noting_build)


def interfering(recipe, number, do):
    """The recipe, with a solver that calls `do` before its batch of this number, from 1, over all passes."""

    def interfering_build(settings, splits):
        experiment = recipe.build(settings, splits)
        calls, absorb = 0, experiment.rule.absorb

        def counted(*batch):
            nonlocal calls
            calls += 1
            if calls == number:
                do()
            return absorb(*batch)

        experiment.rule.absorb = counted
        return experiment

    return replace(recipe, build=interfering_build)


def killed():
    raise Killed


def told_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def stopped(splits):
    """A run that ends with an error at a batch; gives the error."""

    def run_until(folder, recipe, number, do, error):
        with pytest.raises(error) as caught:
            run(folder, interfering(recipe, number, do), resume=True)
        return caught.value

    return run_until


def test_a_run_writes_its_folder_and_can_be_evaluated(tmp_path, splits):
    settings = replace(RECIPE.settings, validation=30)
    outcome = train(RECIPE, settings, EXECUTION, tmp_path / "run", progress=False)
    assert set(outcome.metrics) == {"test_accuracy", "train_accuracy", "validation_accuracy"}
    assert outcome.metrics["test_accuracy"] > 0.9
    assert outcome.peak_memory_bytes > 10 * 2**20
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {".lock", "checkpoint-12", "metrics.jsonl", "result.json", "settings.json"}
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["epoch"], r["step"], r["images"]) for r in records] == [
        (PASSES[0], 1, 2, 64),
        (PASSES[1], 2, 7, 130),
        (PASSES[2], 3, 12, 130),
    ]
    assert all(r["images_per_second"] > 0 for r in records)
    assert [r["seconds"] for r in records] == sorted(r["seconds"] for r in records)
    assert outcome.images_per_second == pytest.approx(324 / outcome.train_seconds)
    assert outcome.train_seconds == records[-1]["seconds"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["settings"] == {
        "batch_size": 32,
        "validation": 30,
        "ridge": 1e-3,
    }
    loaded = load_run(tmp_path / "run")
    assert loaded.settings == settings
    assert loaded.evaluate(loaded.splits.test)["accuracy"] == outcome.metrics["test_accuracy"]
    assert train(RECIPE, settings, EXECUTION, tmp_path / "run", resume=True) == outcome


def test_the_fit_is_that_of_all_training_images_at_once(tmp_path, splits):
    run(tmp_path)
    loaded = load_run(tmp_path)
    torch.manual_seed(EXECUTION.seed)
    alone = build(RECIPE.settings, splits).rule
    x, y = (torch.cat(parts) for parts in zip(*loaded.batches(splits.train, training=True).epoch(0), strict=True))
    alone.fit(x, y)
    torch.testing.assert_close(loaded.rule(x), alone(x), rtol=0, atol=1e-4)
    for name, value in loaded.rule.cascade.network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, alone.cascade.network.state_dict()[name])


@pytest.mark.parametrize(
    ("recipe", "kills", "left"), [(RECIPE, (1, 4, 8), PASSES[2:]), (DRAWING, (8,), ["second"])], ids=["cafo", "drawing"]
)
def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path, stopped, recipe, kills, left):
    whole = run(tmp_path / "whole", recipe)
    for number in kills:
        stopped(tmp_path / "killed", recipe, number, killed, Killed)
    torch.rand(3)  # where the generator stands does not count
    passes = []
    resumed = run(tmp_path / "killed", noting(recipe, passes), resume=True)
    assert passes == left
    assert resumed.metrics == whole.metrics
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert same(load(tmp_path / "killed").model, load(tmp_path / "whole").model)


@pytest.mark.parametrize("recipe", [RECIPE, DRAWING], ids=["cafo", "drawing"])
@pytest.mark.parametrize("number", [2, 8, 10])
def test_a_signal_stops_between_batches_and_the_fit_goes_on(tmp_path, stopped, recipe, number):
    whole = run(tmp_path / "whole", recipe)
    told = str(stopped(tmp_path / "run", recipe, number, told_to_stop, Interrupted))
    assert "interrupted in pass" in told
    assert told.endswith("begins again: resume to go on")
    assert "\n" not in told
    assert load(tmp_path / "run") is not None  # as the message promises
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run(tmp_path / "run", recipe, resume=True).metrics == whole.metrics
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert same(load(tmp_path / "run").model, load(tmp_path / "whole").model)


def test_every_pass_reads_the_data_in_an_order_of_its_own(tmp_path, splits):
    """Pass n reads epoch n."""
    seen = []

    def noted_build(settings, splits):
        experiment = RECIPE.build(settings, splits)
        absorb = experiment.rule.absorb
        experiment.rule.absorb = lambda x, y, part: seen.append((part, y)) or absorb(x, y, part)
        return experiment

    run(tmp_path / "run", replace(RECIPE, build=noted_build))
    loaded = load_run(tmp_path / "run")
    for number, part in enumerate(loaded.rule.passes):
        expected = [y for _, y in loaded.batches(splits.train, training=True).epoch(number)]
        found = [y for other, y in seen if other == part]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=False)), part
    first, second = ([y for other, y in seen if other == part] for part in loaded.rule.passes[:2])
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=False))


def test_half_a_fit_is_not_evaluated(tmp_path, stopped, one_line):
    stopped(tmp_path / "run", RECIPE, 4, killed, Killed)
    with one_line(RunError, "1 of 3 passes", "--resume"):
        load_run(tmp_path / "run")


def test_reproduce_writes_a_result_that_the_tables_can_show(tmp_path, splits, monkeypatch):
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    path, document = reproduce(RECIPE, seeds=2, results=tmp_path / "results", progress=False)
    assert json.loads(path.read_text()) == document
    assert len(document["metrics"]["test_accuracy"]["values"]) == 2
    assert document["departures"] == []
    again, _ = reproduce(RECIPE, seeds=2, results=tmp_path / "results", progress=False)
    assert again == path
    assert "`cafo/stripes`" in results_table([{**document, "file": path}])


def test_progress_is_a_line_for_each_pass(tmp_path, splits, capsys):
    run(tmp_path, progress=True)
    about, *lines = capsys.readouterr().err.splitlines()
    assert about.startswith("cafo/stripes  ")
    assert [line.split("  ")[0] for line in lines] == [f"pass {n}/3 {part}" for n, part in enumerate(PASSES, start=1)]
    assert all(re.search(r"  \d+\.\d s  0:00:\d\d left$", line) and "loss" not in line for line in lines)
    Display(4, None, shown=True, unit="pass").end_pass({"epoch": 1, "stage": "fit", "seconds": 10.0}, 8.0)
    assert capsys.readouterr().err == "pass 1/4 fit  8.0 s  0:00:30 left\n"


def test_passes_move_a_bar_in_a_terminal(tmp_path, splits, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Display(4, None, shown=True, unit="pass") as display:
        display.end_pass({"epoch": 1, "stage": "fit", "seconds": 10.0}, 8.0)
        err = capsys.readouterr().err
    for text in ("pass 1/4 fit", "8.0 s", "0:00:30 left"):
        assert text in err
    run(tmp_path, progress=True)
    assert f"pass 3/3 {PASSES[-1]}" in capsys.readouterr().err


def test_a_pass_tells_what_it_came_to(tmp_path, splits, capsys, monkeypatch):
    monkeypatch.setattr(Drawing, "figures", lambda _, part: {"held_out_accuracy": 0.25} if part == "first" else {})
    run(tmp_path / "run", DRAWING, progress=True)
    _, first, second = capsys.readouterr().err.splitlines()
    assert "pass 1/2 first  held out accuracy 25.0%  " in first
    assert "accuracy" not in second
    assert [record.get("held_out_accuracy") for record in metrics(tmp_path / "run")] == [0.25, None]


def test_precision_reaches_the_solver(tmp_path, splits):
    seen = []
    recipe = interfering(RECIPE, 1, lambda: seen.append(torch.is_autocast_enabled("cpu")))
    train(recipe, recipe.settings, replace(EXECUTION, precision="bf16"), tmp_path, progress=False)
    assert seen == [True]


def test_a_pass_that_fails_leaves_what_was_found_before(tmp_path, splits, monkeypatch, one_line):
    monkeypatch.setattr("beyondprop.solvers.least_squares.NormalEquations.add", lambda *_: killed())
    with pytest.raises(Killed):
        run(tmp_path / "run")
    assert [record["stage"] for record in metrics(tmp_path / "run")] == PASSES[:1]

    def broken(settings, splits):
        experiment = build(settings, splits)
        with torch.no_grad():
            experiment.rule.cascade.network[0].weight[0] = torch.nan
        return experiment

    with one_line(NonFiniteError, "block 1", "NaN"):
        run(tmp_path / "new", replace(RECIPE, build=broken))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", [{"tensorboard": True}, {"alignment_every": 5}])
def test_what_has_no_meaning_for_a_solver_is_refused(tmp_path, splits, one_line, options):
    with one_line(UserError, "cafo/stripes is solved, not stepped", "--tensorboard"):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_solver_is_not_shared_out_among_processes(tmp_path, splits, one_line):
    place = parallel.Place(rank=0, ranks=2, replicas=1, by_hand=True)
    with one_line(UserError, "CascadedLeastSquares cannot be shared out"):
        parallel.train(RECIPE, RECIPE.settings, EXECUTION, tmp_path / "run", place)


def test_the_command_line_offers_no_flag_that_does_nothing(tmp_path, splits, monkeypatch, capsys):
    monkeypatch.setattr("beyondprop.cli.train.find_recipe", {RECIPE.id: RECIPE}.get)
    with pytest.raises(SystemExit):
        cli.main(["train", RECIPE.id, "--help"])
    shown = capsys.readouterr().out
    assert "--ridge" in shown
    assert "--batch-size" in shown
    for flag in ("--epochs", "--learning-rate", "--weight-decay", "--lr-schedule", "--augment", "--ema"):
        assert not re.search(rf"{flag} [A-Z{{]", shown)  # the examples name other recipes' flags
    assert cli.main(["train", RECIPE.id, "--device", "cpu", "--out", str(tmp_path / "run"), "--ridge", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out
    assert "curves" not in out
