"""The moving average of the weights: its formula, where it stands in for the weights, and going on to the same bits."""

import dataclasses
import json

import pytest
import torch
from small_training import Training, TwoPhases, metrics, same
from torch import nn

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.errors import RunError, UserError
from beyondprop.layers.quaternion.norm import QuaternionBatchNorm1d
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training import checkpoint, evaluate, load_run, train
from beyondprop.training.averaging import WeightAverage
from beyondprop.training.execution import Execution
from beyondprop.training.loop import fit
from beyondprop.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")

# What of the small network belongs together: a batch norm's statistics go with its weights, its counter does not.
AVERAGED = {"network.0.weight", "network.0.bias", "network.1.weight", "network.1.bias", "network.1.running_mean"}
AVERAGED |= {"network.1.running_var", "network.4.weight", "network.4.bias"}


def weights_after_every_step(training, **options):
    """Run a training and copy the rule's state before the first step and after each."""
    seen = [{name: value.clone() for name, value in training.rule.state_dict().items()}]
    step = training.optimizer.step

    def stepped(*arguments):
        result = step(*arguments)
        seen.append({name: value.clone() for name, value in training.rule.state_dict().items()})
        return result

    training.optimizer.step = stepped
    training.scheduler = None
    fit(training.rule, training.batches, optimizer=training.optimizer, epochs=3, progress=False, **options)
    return seen


@pytest.mark.parametrize("decay", [0.5, 0.999], ids=["reached at step 9", "never reached"])
def test_the_average_is_the_formula_by_hand(decay):
    training = Training()
    seen = weights_after_every_step(training, ema=decay)
    assert len(seen) == 13
    for name, value in training.rule.state_dict().items():
        expected = seen[0][name].double()
        for n in range(1, 13):
            d = min(decay, n / (n + 9))
            expected = d * expected + (1 - d) * seen[n][name]
        if name not in AVERAGED:
            expected = seen[12][name]
            assert name == "network.1.num_batches_tracked"
        torch.testing.assert_close(value.double(), expected.double(), rtol=1e-5, atol=1e-6)
        assert name not in AVERAGED or not torch.equal(value, seen[12][name])


def test_the_weights_themselves_move_as_without_an_average():
    plain, averaged = weights_after_every_step(Training()), weights_after_every_step(Training(), ema=0.9)
    assert same(plain, averaged)


def test_several_phases_are_one_step_of_the_average():
    training = Training(TwoPhases)
    seen = weights_after_every_step(training, ema=0.9)[::2]  # as they stand after both phases
    expected = seen[0]["network.4.weight"]
    for n in range(1, 13):
        expected = torch.lerp(seen[n]["network.4.weight"], expected, min(0.9, n / (n + 9)))
    torch.testing.assert_close(training.rule.network[4].weight.detach(), expected)
    assert training.rule.calls == 24  # a counter is no weight


class Masked(nn.Module):
    """Holds what an average would spoil: an infinite mask, one that says yes and no, a shared weight, a frozen one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf]))
        self.register_buffer("chosen", torch.tensor([True, False]))

    def forward(self, x):
        return self.second(self.first(x))[:, :3] + self.mask.clamp(-5)


def test_other_buffers_stay_and_shared_weights_stay_shared():
    torch.manual_seed(0)
    network = Masked()
    frozen = network.second.bias.clone()
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        network.first.weight.add_(1.0)
    expected = 0.1 * (network.first.weight.detach() - 1) + 0.9 * network.first.weight.detach()
    average.update()
    average.apply()
    torch.testing.assert_close(network.first.weight.detach(), expected)
    assert network.second.weight is network.first.weight
    assert torch.equal(network.second.bias, frozen)
    assert network.mask.tolist() == [0, 0, -torch.inf]
    assert network.chosen.tolist() == [True, False]


@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9], ids=["every step", "every epoch"])
def test_resuming_gives_the_same_bits(tmp_path, checkpoint_seconds):
    options = {"ema": 0.9, "checkpoint_seconds": checkpoint_seconds, "validation": Training().batches}
    whole = Training()
    whole.run(tmp_path / "whole", **options)
    for kill_at in (1, 2, 6, 9, 12):
        folder = tmp_path / str(kill_at)
        assert Training().run(folder, kill_at=kill_at, **options) is None
        resumed = Training()
        resumed.run(folder, **options)
        assert same(resumed.state(), whole.state()), kill_at
        assert metrics(folder) == metrics(tmp_path / "whole"), kill_at
    finished = Training()
    finished.run(tmp_path / "whole", kill_at=1, **options)  # not one more step
    assert same(finished.state(), whole.state())


def test_a_checkpoint_holds_the_average_as_its_weights(tmp_path):
    training = Training()
    result = training.run(tmp_path, ema=0.9, validation=training.batches)
    restored = Backprop(Training().rule.network)
    with RunFolder(tmp_path, {"epochs": 3}, resume=True) as run:
        run.checkpoint.restore_model(restored)
    assert same(restored.state_dict(), training.rule.state_dict())
    measured = evaluate(restored, training.batches)
    assert result.epochs[-1]["validation_loss"] == measured["loss"]  # the epoch's record is the average's too
    plain = Training()
    last = plain.run(tmp_path / "plain", validation=plain.batches).epochs[-1]
    assert last["validation_loss"] != measured["loss"]
    assert last["loss"] == result.epochs[-1]["loss"]  # while the training loss is that of the weights themselves


def test_a_training_goes_on_only_with_or_without_an_average(tmp_path, one_line):
    Training().run(tmp_path / "with", kill_at=4, ema=0.9)
    with one_line(RunError, "with averaged weights", "ema"):
        Training().run(tmp_path / "with")
    Training().run(tmp_path / "without", kill_at=4)
    with one_line(RunError, "without averaged weights", "ema"):
        Training().run(tmp_path / "without", ema=0.9)


@pytest.mark.parametrize("ema", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(ema, one_line):
    with one_line(UserError, "ema must be at least 0 and below 1"):
        fit(**{**vars(Training()), "scheduler": None}, ema=ema, epochs=1)


def digits_run(folder, *, resume=False, **changes):
    recipe = find_recipe("bp/digits")
    small = {"epochs": 4, "first_width": 4, "hidden": 32, "steps": 2, "start": "zero", "validation": 100}
    settings = dataclasses.replace(recipe.settings, **{**small, **changes})
    return train(recipe, settings, Execution(device="cpu", threads=1), folder, resume=resume, progress=False)


def test_a_run_is_judged_and_loaded_by_its_average(tmp_path):
    outcome = digits_run(tmp_path / "run", ema=0.95)
    assert outcome.metrics["test_accuracy"] != digits_run(tmp_path / "plain").metrics["test_accuracy"]
    loaded = load_run(tmp_path / "run", device="cpu")
    assert loaded.evaluate(data.load("digits").test)["accuracy"] == outcome.metrics["test_accuracy"]
    assert loaded.evaluate(loaded.validation)["accuracy"] == outcome.metrics["validation_accuracy"]


def test_a_run_from_before_there_were_averages_goes_on(tmp_path):
    """Its settings and its checkpoint do not name them."""
    before = digits_run(tmp_path)
    stored = json.loads((tmp_path / "settings.json").read_text())
    for name in ("ema", "encoder", "encoder_width"):
        del stored["settings"][name]
    (tmp_path / "settings.json").write_text(json.dumps(stored))
    (tmp_path / "result.json").unlink()
    saved = checkpoint.load(tmp_path)
    del saved.state["average"]
    rule = load_run(tmp_path, device="cpu").rule
    checkpoint.save(tmp_path, saved.step, rule, saved.state)
    again = digits_run(tmp_path, resume=True)
    assert again.metrics == before.metrics
    assert (tmp_path / "result.json").exists()


def test_statistics_of_every_norm_belong_to_the_average():
    rule = Backprop(nn.Sequential(QuaternionBatchNorm1d(8), nn.InstanceNorm1d(8, track_running_stats=True)))
    average = WeightAverage(rule, 0.5)
    before = {name: value.clone() for name, value in rule.state_dict().items() if "running" in name}
    with torch.no_grad():
        for buffer in rule.buffers():
            buffer.add_(2)
    average.update()
    with average.applied():
        for name, value in before.items():
            assert not torch.equal(rule.state_dict()[name], value + 2), name
