"""A grouped linear layer is a convolution with groups, and a block-diagonal matrix."""

import pytest
import torch
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.grouped_linear import GroupedLinear


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_it_is_a_convolution_with_groups(groups):
    torch.manual_seed(0)
    layer, x = GroupedLinear(6, 12, groups), torch.randn(5, 7, 6)
    expected = F.conv1d(x.mT, layer.weight[..., None], layer.bias, groups=groups).mT
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_its_products_are_autograds(groups):
    torch.manual_seed(0)
    layer, x, signal = GroupedLinear(6, 12, groups), torch.randn(5, 7, 6, requires_grad=True), torch.randn(5, 7, 12)
    weight, given = torch.autograd.grad(layer(x), [layer.weight, x], signal)
    torch.testing.assert_close(layer.weight_gradient(x, signal), weight)
    torch.testing.assert_close(layer.transposed(signal, layer.weight), given)


def test_groups_must_divide():
    with pytest.raises(UserError, match="4 groups do not divide 6 inputs"):
        GroupedLinear(6, 8, 4)
    with pytest.raises(UserError, match="groups must be a whole number of at least 1, got 0"):
        GroupedLinear(6, 8, 0)
