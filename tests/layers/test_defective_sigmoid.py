"""Sigmoids with defects: the formula, and how the defects are spread."""

import torch

from beyondprop.layers.defective_sigmoid import DefectiveSigmoid


def test_without_spread_they_are_plain():
    x = torch.randn(4, 5)
    torch.testing.assert_close(DefectiveSigmoid(5, 0.0)(x), torch.sigmoid(x))


def test_every_unit_has_its_own_curve():
    torch.manual_seed(0)
    layer = DefectiveSigmoid(3, 0.3).double()
    k, high, c, b = layer.slope[1], layer.height[1], layer.centre[1], layer.floor[1]
    x = torch.randn(6, 3).double()
    torch.testing.assert_close(layer(x)[:, 1], high / (1 + torch.exp(-k * (x[:, 1] - c))) + b)


def test_defects_are_spread_as_said_and_stay():
    torch.manual_seed(0)
    layer = DefectiveSigmoid(20_000, 0.2)
    for name, mean in {"slope": 1.0, "height": 1.0, "centre": 0.0, "floor": 0.0}.items():
        values = layer.state_dict()[name]
        assert abs(float(values.mean()) - mean) < 0.01
        assert abs(float(values.std()) - 0.2) < 0.01
    assert not list(layer.parameters())
