"""Activations with defects: the formula, and how the defects are spread."""

import torch
from torch import nn

from beyondprop.layers.defective_activation import DefectiveActivation


def test_without_deviation_they_are_plain():
    x = torch.randn(4, 5)
    torch.testing.assert_close(DefectiveActivation(nn.Tanh(), (5,), 0.0)(x), x.tanh())


def test_every_sigmoid_has_its_own_curve():
    torch.manual_seed(0)
    layer = DefectiveActivation(nn.Sigmoid(), (3,), 0.3).double()
    x = torch.randn(6, 3).double()
    expected = layer.L[1] / (1 + torch.exp(-layer.k[1] * (x[:, 1] - layer.x0[1]))) + layer.y0[1]
    torch.testing.assert_close(layer(x)[:, 1], expected)


def test_defects_are_spread_as_said_and_stay():
    torch.manual_seed(0)
    layer = DefectiveActivation(nn.Sigmoid(), (20_000,), 0.2)
    for name, mean in {"k": 1.0, "L": 1.0, "x0": 0.0, "y0": 0.0}.items():
        values = layer.state_dict()[name]
        assert abs(float(values.mean()) - mean) < 0.01
        assert abs(float(values.std()) - 0.2) < 0.01
    assert not list(layer.parameters())
