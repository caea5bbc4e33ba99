"""What the driver of a chip must have and may leave out, and what of it is refused."""

import math

import pytest
import torch
from small_chips import Counting, batches, chip_rule, flat, network, train
from torch import nn

from beyondprop.devices import ModuleDevice
from beyondprop.errors import UserError
from beyondprop.rules.perturbation.chip import ChipMGD


@pytest.mark.parametrize("state", [None, "idle"])
def test_a_state_that_is_no_method_is_no_simulators(state):
    device = Counting()
    device.state = state
    rule = chip_rule(device)
    train(rule, 1)
    assert rule.state_dict()


def test_what_a_driver_forgets_is_told_in_one_line(one_line):
    class Forgetting(Counting):
        def read(self, perturbations):
            super().read(perturbations)

    x, y = batches(1)[0]
    with one_line(UserError, "the device's read gave None: it must return numbers"):
        chip_rule(Forgetting()).backward(x, y)
    with one_line(UserError, "Counting is a class: make a device of it first"):
        ChipMGD(Counting)
    deaf = Counting()
    deaf.read = None
    with one_line(UserError, "its read cannot be called"):
        ChipMGD(deaf)
    with one_line(UserError, "spread must be a number"):
        ChipMGD(Counting(), spread=math.nan)


class Mute:
    """All that a device must have, and a cost that is a cross-entropy."""

    size = 32

    def __init__(self):
        self.inner = ModuleDevice(network())

    def write(self, parameters):
        self.inner.write(parameters)

    def present(self, x, y):
        self.inner.present(x, y)

    def read(self, perturbations):
        return self.inner.read(perturbations).tolist()


def test_a_device_that_shows_nothing_but_its_cost_classifies(one_line):
    x, _ = batches(1)[0]
    rule = ChipMGD(Mute(), initial=flat(network()), classes=2)
    torch.testing.assert_close(rule(x), network()(x).log_softmax(dim=1))
    with one_line(UserError, "predict", "classes"):
        ChipMGD(Mute())(x)
    with pytest.raises(UserError, match=r"0\.\.1"):
        rule.backward(x, torch.full((8,), 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChipMGD(nn.Linear(2, 2)), "has no size"),
        (lambda: ChipMGD(Mute(), initial=torch.zeros(31)), "32 parameters"),
        (lambda: ChipMGD(Mute(), patience={"retries": -1}), "retries must be a whole number of at least 0"),
        (lambda: ChipMGD(Mute(), patience={"retries": 1.5}), "retries must be a whole number"),
        (lambda: ChipMGD(Mute(), patience={"rereads": 0.5}), "rereads must be a whole number"),
        (lambda: ChipMGD(Mute(), patience={"stuck_after": 2.5}), "stuck_after must be a whole number"),
        *(
            (lambda name=name: ChipMGD(Mute(), patience={name: math.nan}), f"{name} must be a number of at least 0")
            for name in ("pause", "longest", "timeout")
        ),
        (lambda: ChipMGD(Mute(), copies=2), "first dimension"),
        (lambda: ChipMGD(type("Empty", (Mute,), {"size": 0})()), "number of parameters"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_wrong_shapes_of_costs_are_refused():
    class Short(Mute):
        def read(self, perturbations):
            return super().read(perturbations)[1:]

    with pytest.raises(UserError, match="9 perturbations"):
        chip_rule(Short()).backward(*batches(1)[0])
