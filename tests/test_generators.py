"""The generators' state: of the CPU, and of CUDA, which a generator of the test's own stands for here."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from beyondprop import generators
from beyondprop.generators import GeneratorState, cuda_devices
from beyondprop.rules.perturbation import forward_gradient, perturbed
from beyondprop.rules.perturbation.forward_gradient import ForwardGradient
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.fixture
def cuda(monkeypatch):
    """Generators in the place of those of two devices."""
    there = {device: torch.Generator().manual_seed(3) for device in (FIRST, SECOND)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: there[device].get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: there[device].set_state(state))
    return there


def test_all_generators_in_use_go_back_and_no_other(cuda):
    state = GeneratorState([torch.device("cpu"), FIRST])
    sources = (None, cuda[FIRST], cuda[SECOND])
    drawn = [torch.rand(4, generator=source) for source in sources]
    state.restore()
    same = [torch.equal(torch.rand(4, generator=s), d) for s, d in zip(sources, drawn, strict=True)]
    assert same == [True, True, False]


def test_devices_are_those_of_parameters_and_buffers():
    def tensors(*devices):
        return lambda: iter([SimpleNamespace(device=device) for device in devices])

    module = SimpleNamespace(parameters=tensors(FIRST, torch.device("cpu"), FIRST), buffers=tensors(SECOND))
    assert sorted(cuda_devices(module), key=str) == [FIRST, SECOND]
    assert cuda_devices(nn.Linear(2, 2)) == []


class Dropping(nn.Module):
    """A layer that drops some of its outputs, by the device's generator."""

    def __init__(self, generator):
        super().__init__()
        self.layer, self.generator, self.masks = nn.Linear(3, 8), generator, []
        self.weight = nn.Parameter(torch.randn(2, 8))

    def forward(self, x):
        mask = torch.rand(8, generator=self.generator) < 0.5
        if self.training:  # else a first batch is looked at
            self.masks.append(mask)
        return self.layer(x) * mask @ self.weight.T


class Whole(nn.Module):
    """The same as one layer, which is run again to be taught."""

    def __init__(self, generator):
        super().__init__()
        self.weight, self.generator, self.masks = nn.Parameter(torch.randn(3, 2)), generator, []

    def forward(self, x):
        mask = torch.rand(x.shape, generator=self.generator) < 0.5
        if self.training:
            self.masks.append(mask)
        return x * mask @ self.weight


@pytest.mark.parametrize(
    ("make", "kind", "evaluations"),
    [
        (lambda net: ForwardGradient(net, perturb="weights", directions=4), Dropping, 4),
        (lambda net: ForwardGradient(net, directions=4), Whole, 8),  # each time once more to be taught
        (lambda net: MultiplexedGradientDescent(net, tau_x=4, at_once=1), Dropping, 5),
    ],
)
def test_dropout_on_a_device_has_one_mask_for_all_evaluations(cuda, monkeypatch, make, kind, evaluations):
    for module in (forward_gradient, perturbed, generators):
        monkeypatch.setattr(module, "cuda_devices", lambda _network: [FIRST])
    network = kind(cuda[FIRST])
    rule = make(network)
    rule.backward(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0]))
    assert len(network.masks) == evaluations
    assert all(torch.equal(mask, network.masks[0]) for mask in network.masks)
