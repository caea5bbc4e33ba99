"""A small network behind a device, and its training, on which the chip in the loop is tested."""

import torch
from torch import nn

from beyondprop.devices import ModuleDevice
from beyondprop.rules.perturbation.chip import ChipMGD

AT_ONCE = {"pause": 0.0}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def batches(count=6):
    torch.manual_seed(1)
    return [(torch.randn(8, 3), torch.randint(2, (8,))) for _ in range(count)]


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def train(rule, count=6, optimizer=torch.optim.SGD):
    """Weights after some steps; every draw comes from the same seed."""
    stepper = optimizer(rule.parameters(), lr=0.1)
    torch.manual_seed(2)
    for x, y in batches(count):
        stepper.zero_grad()
        rule.backward(x, y)
        stepper.step()
    return flat(rule)


def chip_rule(device, **options):
    initial = flat(network())
    return ChipMGD(device, **{"initial": initial, "tau_x": 8, "patience": AT_ONCE, **options})


def undisturbed(**options):
    return train(chip_rule(ModuleDevice(network()), **options))


class Counting(ModuleDevice):
    """A device that fails at given calls, and counts what it is asked."""

    def __init__(self, fails=lambda name, count: None, module=None, **options):
        super().__init__(module or network(), **options)
        self.fails, self.counts = fails, dict.fromkeys(("write", "present", "read", "predict"), 0)

    def _meet(self, name):
        self.counts[name] += 1
        if (failure := self.fails(name, self.counts[name])) is not None:
            raise failure

    def write(self, parameters):
        self._meet("write")
        super().write(parameters)

    def present(self, x, y):
        self._meet("present")
        super().present(x, y)

    def read(self, perturbations):
        self._meet("read")
        return super().read(perturbations)

    def predict(self, x):
        self._meet("predict")
        return super().predict(x)
