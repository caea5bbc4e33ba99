"""A recipe's whole run, its folder, and loading it again."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_training import Killed, metrics, same
from torch import nn

from beyondprop.data import Splits, image_set
from beyondprop.errors import RunError, UserError
from beyondprop.recipe import Experiment, Recipe, Settings
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training import Execution, evaluate, load_run, runs, train
from beyondprop.training.assembly import make_optimizer, make_scheduler
from beyondprop.training.checkpoint import load
from beyondprop.training.curves import _smooth, draw_accuracy_by_steps, draw_curves
from beyondprop.training.runs import flushes_denormals, use_processor

pytestmark = pytest.mark.usefixtures("undrawn")

EXECUTION = Execution(device="cpu", seed=2)


@dataclass(frozen=True, kw_only=True)
class ConvSettings(Settings):
    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 0.02
    lr_schedule: str = "one-cycle"
    widths: tuple[int, ...] = (4,)


def build(settings, splits):
    assert len(splits.train) == 160 - settings.validation
    (width,) = settings.widths
    network = nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(width * 16, 3),
    )
    rule = Backprop(network)

    def measures(batches):
        assert not rule.training
        return {"test_images": float(sum(len(x) for x, _ in batches)), "profile": [1.0, 2.0]}

    return Experiment(rule, measures=measures)


RECIPE = Recipe("bp/stripes", "for the tests", "digits", ConvSettings(), build)


@pytest.fixture
def splits():
    """Stripes in one of three directions, with noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    patterns = torch.stack([rows % 2, columns % 2, (rows + columns) % 2])
    noise = torch.randint(0, 90, (240, 6, 6), generator=generator)
    images = (patterns[labels] * 160 + noise).to(torch.uint8)
    return Splits(image_set(images[:160], labels[:160]), image_set(images[160:], labels[160:]))


@pytest.fixture
def catalogue(monkeypatch, splits):
    """A catalogue that knows one recipe, whose data are at hand."""
    monkeypatch.setitem(sys.modules, "beyondprop.catalogue", SimpleNamespace(find_recipe={RECIPE.id: RECIPE}.get))
    monkeypatch.setattr("beyondprop.data.load", lambda _: splits)


def test_a_run_writes_its_folder_and_says_what_came_out(tmp_path, splits, catalogue):
    settings = replace(RECIPE.settings, validation=30)
    outcome = train(RECIPE, settings, EXECUTION, tmp_path / "run", progress=False)
    assert set(outcome.metrics) == {"test_accuracy", "train_accuracy", "validation_accuracy", "test_images", "profile"}
    assert outcome.metrics["test_accuracy"] > 0.9
    assert outcome.metrics["test_images"] == 80
    assert outcome.train_seconds > 0
    assert outcome.images_per_second == pytest.approx(4 * 130 / outcome.train_seconds)
    assert outcome.peak_memory_bytes > 10 * 2**20
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"] == outcome.metrics
    assert result["settings"]["widths"] == [4]
    assert result["recipe"] == "bp/stripes"
    assert result["execution"]["seed"] == 2
    assert (tmp_path / "run" / "curves.png").read_bytes() == b"curves"

    run = load_run(tmp_path / "run")
    assert run.settings == settings
    assert run.execution == EXECUTION
    assert len(run.validation) == 30
    measured = evaluate(run.rule, run.batches(run.splits.test), inference=run.experiment.inference)
    assert measured["accuracy"] == outcome.metrics["test_accuracy"]


def test_a_finished_run_is_not_trained_again(tmp_path, splits, monkeypatch):
    outcome = train(RECIPE, RECIPE.settings, EXECUTION, tmp_path, progress=False, splits=splits)
    monkeypatch.setattr("beyondprop.training.runs.assemble", None)
    assert train(RECIPE, RECIPE.settings, EXECUTION, tmp_path, resume=True, progress=False) == outcome
    with pytest.raises(RunError, match="--resume"):
        train(RECIPE, RECIPE.settings, EXECUTION, tmp_path)
    with pytest.raises(RunError, match="batch_size is 32, not 16"):
        train(RECIPE, replace(RECIPE.settings, batch_size=16), EXECUTION, tmp_path, resume=True)


@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "cosine"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, splits, schedule, monkeypatch):
    settings = replace(RECIPE.settings, lr_schedule=schedule)

    def run(name, kill_at=0, **options):
        calls = 0
        credit = Backprop.assign_credit

        def counted(self, x, y, phase):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise Killed
            return credit(self, x, y, phase)

        with monkeypatch.context() as patch:
            patch.setattr(Backprop, "assign_credit", counted)
            return train(
                RECIPE,
                settings,
                EXECUTION,
                tmp_path / name,
                progress=False,
                splits=splits,
                checkpoint_seconds=0,
                **options,
            )

    whole = run("whole")
    for kill_at in (3, 8):
        with pytest.raises(Killed):
            run("killed", kill_at, resume=True)
    resumed = run("killed", resume=True)
    assert resumed.metrics == whole.metrics
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    ends = [load(tmp_path / name) for name in ("whole", "killed")]
    assert same(ends[0].model, ends[1].model)
    assert same(ends[0].state["optimizer"], ends[1].state["optimizer"])


def test_settings_reach_the_optimizer(splits):
    settings = ConvSettings(learning_rate=0.3, weight_decay=0.07)
    optimizer = make_optimizer(build(settings, splits).rule, settings)
    assert type(optimizer) is torch.optim.AdamW
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {(0.3, 0.07)}


@pytest.mark.parametrize(
    ("name", "factors"), [("cosine", [1.0, 0.5, 0.0]), ("one-cycle", [0.04, None, 4e-6])], ids=["cosine", "one-cycle"]
)
def test_learning_rate_moves_as_the_schedule_says(name, factors):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    scheduler = make_scheduler(optimizer, name, 100)
    rates = []
    for step in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < 99:
            scheduler.step()
    for at, factor in zip((0, 50, 99), factors, strict=True):
        assert factor is None or rates[at] == pytest.approx(2.0 * factor, abs=2e-3)
    assert max(rates) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["cosine", "one-cycle"])
def test_the_schedule_begins_anew_with_every_stage(name):
    """And goes on after its state was saved and restored."""

    def rates(stages, restored_at=None):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0, momentum=0.9)
        scheduler = make_scheduler(optimizer, name, 10 * stages, stages)
        found = []
        for step in range(10 * stages):
            if step == restored_at:
                states = optimizer.state_dict(), scheduler.state_dict()
                optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0, momentum=0.9)
                scheduler = make_scheduler(optimizer, name, 10 * stages, stages)
                optimizer.load_state_dict(states[0])
                scheduler.load_state_dict(states[1])
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if step < 10 * stages - 1:
                scheduler.step()
        return found

    assert rates(3) == pytest.approx(3 * rates(1), abs=1e-9)
    assert rates(3, restored_at=14) == rates(3)
    assert max(rates(1)) == pytest.approx(2.0)


def test_a_recipe_may_bring_its_own_optimizer(tmp_path, splits):
    made = []

    def build_with_sgd(settings, splits):
        experiment = build(settings, splits)
        made.append(torch.optim.SGD(experiment.rule.parameters(), lr=0.0))
        experiment.optimizer = made[0]
        return experiment

    recipe = replace(RECIPE, build=build_with_sgd)
    settings = ConvSettings(epochs=1, lr_schedule="constant")
    train(recipe, settings, EXECUTION, tmp_path, progress=False, splits=splits)
    weights = load_file(next(tmp_path.glob("checkpoint-*/model.safetensors")))
    torch.manual_seed(EXECUTION.seed)
    assert torch.equal(weights["network.0.weight"], build(settings, splits).rule.network[0].weight)


def test_settings_out_of_range_are_refused_before_a_folder_is_made(tmp_path, splits, one_line):
    with one_line(UserError, "--epochs"):
        train(RECIPE, ConvSettings(epochs=0), EXECUTION, tmp_path / "new", progress=False, splits=splits)
    assert not (tmp_path / "new").exists()


def test_the_seed_alone_decides(tmp_path, splits):
    def weights(name, seed):
        torch.rand(3)  # where the generator stood before does not count
        execution = replace(EXECUTION, seed=seed)
        train(RECIPE, replace(RECIPE.settings, epochs=1), execution, tmp_path / name, progress=False, splits=splits)
        return load(tmp_path / name).model

    assert same(weights("a", 1), weights("b", 1))
    assert not same(weights("c", 2), weights("d", 3))


def test_channels_last_changes_no_key(tmp_path, splits):
    from beyondprop.training.assembly import assemble

    last, first = (
        assemble(RECIPE, RECIPE.settings, replace(EXECUTION, channels_last=on), splits) for on in (True, False)
    )
    assert last.rule.state_dict().keys() == first.rule.state_dict().keys()
    assert same(dict(last.rule.state_dict()), dict(first.rule.state_dict()))


def test_threads_are_set_for_the_run_alone(tmp_path, splits):
    before = torch.get_num_threads()
    seen = []

    def note(settings, splits):
        seen.append(torch.get_num_threads())
        return build(settings, splits)

    execution = replace(EXECUTION, threads=2)
    train(
        replace(RECIPE, build=note),
        replace(RECIPE.settings, epochs=1),
        execution,
        tmp_path,
        progress=False,
        splits=splits,
    )
    assert seen == [2]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("flushing", [False, True])
def test_numbers_below_the_smallest_normal_one_are_zero_within_a_run(flushing):
    torch.set_flush_denormal(False)
    tiny = torch.full((4,), 1e-39)
    torch.set_flush_denormal(flushing)
    try:
        with use_processor(None):
            assert not (tiny * 0.5).any()
        assert bool((tiny * 0.5).any()) is not flushing
        assert flushes_denormals() is flushing
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cuda" if not torch.cuda.is_available() else "hpu"])
def test_a_device_that_is_not_there_is_told(tmp_path, splits, one_line, device):
    with one_line(UserError, repr(device)):
        train(RECIPE, RECIPE.settings, replace(EXECUTION, device=device), tmp_path, splits=splits)


def test_loading_what_is_no_recipes_run_is_told(tmp_path, one_line, catalogue):
    with one_line(RunError, "holds no run"):
        load_run(tmp_path)
    (tmp_path / "settings.json").write_text('{"epochs": 3, "commits": []}')
    with one_line(RunError, "not trained from a recipe"):
        load_run(tmp_path)
    stored = {"recipe": RECIPE.id, "settings": {"epochs": 1, "depth": 3}, "execution": {}, "commits": []}
    (tmp_path / "settings.json").write_text(json.dumps(stored))
    with one_line(RunError, "another version", "depth"):
        load_run(tmp_path)
    stored["settings"] = {"epochs": 1}
    (tmp_path / "settings.json").write_text(json.dumps(stored))
    with one_line(RunError, "no checkpoint yet"):
        load_run(tmp_path)


def test_curves_are_drawn_from_nothing_one_epoch_or_many():
    epochs = [{"step": n, "epoch": n, "loss": 1.0, "train_accuracy": 0.5, "seconds": 1.0} for n in range(1, 40)]
    steps = [{"step": n, "epoch": n, "loss": 100.0 / n} for n in range(1, 3000)]
    alone = [{"step": n, "epoch": 0, "stage": "feedback", "feedback_loss": -1.0 / n} for n in range(1, 40)]
    for records in ([], epochs[:1], steps[:1], steps + epochs, alone, alone + steps, alone + steps + epochs):
        picture = draw_curves(records, "bp/digits: test accuracy 97.0%")
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(picture[16:20]) > 800  # its width
        assert 5_000 < len(picture) < 200_000


@pytest.mark.parametrize(
    ("figure", "title"), [("validation_loss", "Loss of held-out samples"), ("train_accuracy", "Accuracy")]
)
def test_the_last_plot_is_of_accuracy_or_of_a_regressions_held_out_loss(monkeypatch, figure, title):
    drawn = []
    monkeypatch.setattr("beyondprop.training.curves.png", lambda _figure, *plots: drawn.extend(plots) or b"")
    epochs = [{"step": n, "epoch": n, "loss": 1.0, figure: 0.5 / n, "seconds": 1.0} for n in range(1, 4)]
    draw_curves(epochs, "mine")
    assert drawn[-1].get_title() == title
    assert drawn[-1].lines[0].get_ydata().tolist() == [0.5, 0.25, 0.5 / 3]
    drawn.clear()
    draw_curves([{"step": 1, "epoch": 1, "loss": 1.0, "feedback_loss": 2.0, "seconds": 1.0}], "mine")
    assert [plot.get_title() for plot in drawn] == ["Loss"]


def test_execution_is_free_of_torch():
    code = "import sys; from beyondprop.training import Execution; Execution(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("count", "accuracies"), [(360, {1: 0.985, 5: 0.985 + 1 / 360}), (20, {1: 1.0, 2: 1.0})])
def test_one_image_is_no_peak_in_the_picture_by_steps(monkeypatch, count, accuracies):
    drawn = []
    monkeypatch.setattr("beyondprop.training.curves.png", lambda figure, axes: drawn.append(axes) or b"")
    draw_accuracy_by_steps(accuracies, count, "noprop-ct/digits, test split")
    (axes,) = drawn
    assert axes.get_title().startswith(f"noprop-ct/digits, test split\n{count} samples")
    low, high = axes.get_ylim()
    assert 1 / count < (high - low) / 4


def test_bars_of_two_standard_errors_lie_about_the_accuracy_by_steps(monkeypatch):
    drawn = []
    monkeypatch.setattr("beyondprop.training.curves.png", lambda figure, axes: drawn.append(axes) or b"")
    draw_accuracy_by_steps({1: 0.5, 2: 0.9, 3: 1.0}, 10_000, "title")
    (bars,) = drawn[0].containers
    ends = [segment[:, 1].tolist() for segment in bars[2][0].get_segments()]
    assert ends[0] == pytest.approx([0.49, 0.51], abs=1e-4)  # sqrt(0.25 / 10000) = 0.005
    assert ends[1] == pytest.approx([0.894, 0.906], abs=2e-4)  # sqrt(0.09 / 10000) = 0.003
    assert ends[2][0] < 0.9998
    assert ends[2][1] == 1.0


def test_the_training_figures_are_of_samples_from_all_over_the_set(monkeypatch):
    monkeypatch.setattr(runs, "MOST_TRAINING_IMAGES", 10)
    many, few = (image_set(torch.rand(n, 1, 2, 2), torch.arange(n) % 2) for n in (25, 8))
    seen = []

    def evaluated(images):
        seen.append(images.images)
        return {"accuracy": 1.0, "loss": 0.0, "count": len(images)}

    for training in (many, few):
        built = SimpleNamespace(
            splits=Splits(training, few), validation=None, evaluate=evaluated, measures=lambda _images: {}
        )
        assert set(runs._final_metrics(built)) == {"test_accuracy", "train_accuracy"}
    assert torch.equal(seen[1], many.images[::3])
    assert torch.equal(seen[3], few.images)


def test_smoothed_losses_count_the_first_like_the_others():
    assert _smooth([2.0] * 30) == pytest.approx([2.0] * 30)
    high = _smooth([100.0] + [1.0] * 499)  # over about ten losses
    assert high[0] < 30  # half of the first loss and more, were it counted as all that came before
    assert high[60:] == pytest.approx([1.0] * 440, abs=0.3)
