"""Local receptive fields against a loop over places."""

import math

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.layers.locally_connected import LocallyConnected2d


def make():
    torch.manual_seed(0)
    return LocallyConnected2d((2, 5, 4), 3, 3).double()


def test_every_place_has_filters_of_its_own():
    """Each weight is used for one place alone; the field is cut off at the border."""
    layer = make()
    x = torch.randn(2, 2, 5, 4).double()
    expected = layer.bias.detach().expand(2, -1, -1, -1).clone()
    used = []
    for p, (source, target) in enumerate(zip(layer.columns.tolist(), layer.rows.tolist(), strict=True)):
        channel, place = divmod(source, 20)
        (row, column), (to_row, to_column) = divmod(place, 4), divmod(target, 4)
        assert abs(row - to_row) <= 1
        assert abs(column - to_column) <= 1
        used.append((channel, row, column, to_row, to_column))
        for out in range(3):
            expected[:, out, to_row, to_column] += layer.weight[out, p].detach() * x[:, channel, row, column]
    torch.testing.assert_close(layer(x).detach(), expected)
    # 6 inner places with 9 neighbours, 10 at the edges with 6, 4 corners with 4, for each of two channels.
    assert len(set(used)) == len(used) == 2 * (6 * 9 + 10 * 6 + 4 * 4)


def test_gradients_are_right():
    layer, x = make(), torch.randn(2, 2, 5, 4).double().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    torch.autograd.gradcheck(
        lambda x, *p: torch.func.functional_call(layer, dict(zip(names, p, strict=True)), x), (x, *layer.parameters())
    )


@pytest.mark.parametrize("field", [1, 9])
def test_smallest_and_largest_field(field):
    layer = LocallyConnected2d((1, 4, 4), 1, field)
    assert layer.weight.shape == (1, 16 if field == 1 else 256)
    assert layer(torch.randn(3, 1, 4, 4)).shape == (3, 1, 4, 4)
    colour = LocallyConnected2d((4, 4, 4), 8, field)  # torch's bound: one over the root of a filter's inputs
    bound = 1 / (2 * field)
    assert 0.9 * bound < colour.weight.abs().max() <= bound


def test_weights_and_biases_begin_within_a_fields_bound():
    layer = LocallyConnected2d((2, 9, 9), 8, 5)
    bound = 1 / math.sqrt(2 * 25)
    for p in layer.parameters():
        assert 0.9 * bound < p.detach().abs().max() <= bound


@pytest.mark.parametrize("field", [4, 0, -3, 3.0])
def test_fields_lie_around_a_place(field):
    with pytest.raises(UserError, match="field must be"):
        LocallyConnected2d((2, 5, 4), 3, field)


def test_images_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"images of shape \(2, 5, 4\), got \(5, 4, 2\)"):
        make()(torch.randn(1, 5, 4, 2).double())
