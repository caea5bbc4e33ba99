"""Forward gradients keep no reverse graph and make no product that is zero."""

import itertools

import pytest
import torch
from differentiated_networks import make
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from beyondprop.measure.memory import peak_saved_bytes
from beyondprop.rules.perturbation.forward_gradient import ForwardGradient


def test_no_reverse_graph_stands():
    network, x, y = make("perceptron")
    assert peak_saved_bytes(lambda: ForwardGradient(network, perturb="weights").backward(x, y), network) == 0
    deep = [nn.Sequential(*[layer for _ in range(n) for layer in (nn.Linear(3, 3), nn.Tanh())]) for n in (3, 12)]
    saved = [peak_saved_bytes(lambda net=net: ForwardGradient(net).backward(x.float(), y), net) for net in deep]
    assert saved[0] == saved[1]


@pytest.mark.parametrize("perturb", ["weights", "activities"])
def test_no_product_is_made_that_is_zero(perturb):
    """Each layer's own product; that of its tangent, but in the first, whose input does not move; and its gradient."""
    widths, batch = (7, 5, 6, 3), 4
    network = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    rule, x, y = ForwardGradient(network, perturb=perturb), torch.randn(batch, 7), torch.tensor([0, 1, 2, 0])
    rule.backward(x, y)  # a first batch is looked at besides
    with FlopCounterMode(display=False) as counter:
        rule.backward(x, y)
    products = [2 * batch * i * o for i, o in itertools.pairwise(widths)]
    assert counter.get_total_flops() == 3 * sum(products) - products[0]
