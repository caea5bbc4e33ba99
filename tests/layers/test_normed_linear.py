"""Tangents by hand are those of finite differences, and gradients those of autograd."""

import pytest
import torch
from torch import nn

from beyondprop.layers.grouped_linear import GroupedLinear
from beyondprop.layers.normed_linear import NormedLinear

LAYERS = {
    "channels": lambda: NormedLinear(nn.Linear(6, 8)),
    "groups": lambda: NormedLinear(GroupedLinear(6, 8, 2), groups=2),
    "tokens": lambda: NormedLinear(nn.Linear(4, 4), tokens=True, reach="patch"),
}


def make(name):
    torch.manual_seed(0)
    return LAYERS[name]().double(), torch.randn(3, 4, 6).double(), torch.randn(3, 4, 6).double()


@pytest.mark.parametrize("moves", ["input", "weights", "both"])
@pytest.mark.parametrize("name", LAYERS)
def test_output_and_tangent(name, moves):
    layer, x, dx = make(name)
    parameters = {k: p.detach() for k, p in layer.named_parameters()}
    directions = {k: torch.randn_like(p) for k, p in parameters.items()}
    moved = {k: d if moves != "input" else 0 * d for k, d in directions.items()}

    def moved_by(step):
        given = x if moves == "weights" else x + step * dx
        return torch.func.functional_call(layer, {k: p + step * moved[k] for k, p in parameters.items()}, (given,))

    step = 1e-5
    z, dz = layer(x), (moved_by(step) - moved_by(-step)) / (2 * step)
    with torch.no_grad():
        found = layer.evaluate(
            x, None if moves == "weights" else dx, [] if moves == "input" else list(directions.values())
        )
    torch.testing.assert_close(found.z, z)
    torch.testing.assert_close(found.dz, dz, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name):
    layer, x, _ = make(name)
    z = layer(x)
    signal = torch.randn_like(z)
    expected = torch.autograd.grad(z, list(layer.parameters()), signal)
    with torch.no_grad():
        call = layer.evaluate(x)
        found = dict(call.gradients(signal))
    assert call.dz is None
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(found[parameter], gradient)
