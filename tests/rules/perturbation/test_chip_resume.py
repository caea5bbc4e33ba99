"""A training that its chip ended resumes to the same bits."""

import itertools

import pytest
import torch
from small_chips import Counting
from torch import nn

from beyondprop import training
from beyondprop.devices import ModuleDevice, SimulatedChip
from beyondprop.errors import DeviceError
from beyondprop.recipe import Experiment, Recipe, Settings
from beyondprop.rules.perturbation.chip import ChipMGD
from beyondprop.training.checkpoint import load
from beyondprop.training.execution import Execution


def recipe(make_device):
    def build(settings, splits):
        rule = ChipMGD(make_device(), spread=0.1, classes=10, tau_x=16, patience={"retries": 0})
        return Experiment(rule)

    return Recipe("mgd/test", "a chip", "digits", Settings(epochs=2, batch_size=256), build)


def digits_module():
    with torch.random.fork_rng():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def run(make_device, folder, **options):
    return training.train(
        recipe(make_device), Settings(epochs=2, batch_size=256), Execution(threads=1), folder, progress=False, **options
    )


def weights(folder):
    return {name: value for name, value in load(folder).model.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(("call", "failing", "done"), [("read", 3, 2), ("read", 9, 8), ("predict", 2, 6)])
def test_a_training_that_the_device_ended_resumes_to_the_same_bits(tmp_path, call, failing, done):
    """The checkpoint is of the step before, whether it fails in a step or in an evaluation."""
    run(lambda: Counting(module=digits_module()), tmp_path / "whole")
    fails = lambda name, count: OSError("gone") if (name, count) == (call, failing) else None  # noqa: E731
    with pytest.raises(DeviceError, match="gone"):
        run(lambda: Counting(fails, module=digits_module()), tmp_path / "parts")
    again = Counting(module=digits_module())
    run(lambda: again, tmp_path / "parts", resume=True)
    assert again.counts["read"] == 12 - done
    ends = [weights(tmp_path / name) for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_noisy_simulated_chip_resumes_to_the_same_bits(tmp_path):
    """Its noise and drift go on where they were."""

    class Ends(SimulatedChip):
        def __init__(self, last):
            super().__init__(ModuleDevice(digits_module()), noise=0.01, drift=1e-3)
            self.calls, self.last = itertools.count(), last

        def read(self, perturbations):
            if next(self.calls) == self.last:
                raise OSError("gone")
            return super().read(perturbations)

    run(lambda: Ends(None), tmp_path / "whole")
    with pytest.raises(DeviceError):
        run(lambda: Ends(8), tmp_path / "parts")
    run(lambda: Ends(None), tmp_path / "parts", resume=True)
    ends = [weights(tmp_path / name) for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
