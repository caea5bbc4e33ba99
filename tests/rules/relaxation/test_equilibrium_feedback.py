"""Equilibrium propagation with feedback of its own: tied, by the same update, and by the different one."""

import itertools
import math

import pytest
import torch
from nudged_networks import LONG, make
from settling_networks import batch, distance, gradients, perceptron

from beyondprop.rules.relaxation.asymmetric import AsymmetricNetwork
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation


@pytest.mark.parametrize("same_update", [True, False])
def test_tied_feedback_gives_the_symmetric_estimate(same_update):
    """Weights and feedback together receive what the shared weights of the symmetric network do."""
    layers = perceptron()
    x, y = batch(4)
    symmetric = make(layers, x, beta=1e-3, **LONG)
    network = AsymmetricNetwork(layers, x[:2], same_update=same_update)
    tie(network)
    rule = EquilibriumPropagation(network, beta=1e-3, **LONG)
    gradients(rule, x, y)
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    for name, gradient in zip(dict(layers.named_parameters()), gradients(symmetric, x, y), strict=True):
        mine = found[f"layers.{name}"]
        if same_update:  # each receives the whole
            torch.testing.assert_close(mine, gradient, rtol=1e-9, atol=1e-11)
            if f"feedback.{name}" in found:
                assert torch.equal(found[f"feedback.{name}"], mine)
        else:  # each its share
            both = mine + found.get(f"feedback.{name}", 0)
            torch.testing.assert_close(both, gradient, rtol=1e-4, atol=1e-6)


def tie(network):
    for name, module in network.feedback.items():
        module.weight.data.copy_(dict(network.layers.named_modules())[name].weight.data)


def test_the_different_update_of_untied_feedback_errs_with_the_square_of_beta():
    """Of its own limit: presynaptic states are free ones, so that nothing of first order remains."""
    x, y = batch(4)
    torch.manual_seed(5)
    network = AsymmetricNetwork(perceptron(gain=0.7), x[:2], same_update=False)
    found = [gradients(EquilibriumPropagation(network, beta=b, **LONG), x, y) for b in (0.2, 0.1, 0.05, 1e-3)]
    errors = [distance(each, found[-1]) for each in found[:-1]]
    slopes = [math.log(a / b) / math.log(2) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([2, 2], abs=0.15)


def test_feedback_comes_to_be_the_weights_by_the_same_update_and_decay():
    """B - W shrinks by (1 - rate * decay) a step, exactly, for both receive the same."""
    x, y = batch(4)
    network = AsymmetricNetwork(perceptron(), x[:2], same_update=True)
    rule = EquilibriumPropagation(network, beta=0.2)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1, weight_decay=0.5)
    start = apart(network)
    for _ in range(40):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    for now, then in zip(apart(network), start, strict=True):
        torch.testing.assert_close(now, then * (1 - 0.1 * 0.5) ** 40, rtol=1e-9, atol=1e-12)


def apart(network):
    modules = dict(network.layers.named_modules())
    return [(module.weight - modules[name].weight).detach().clone() for name, module in network.feedback.items()]


def test_the_different_update_does_not_bring_feedback_and_weights_together():
    x, y = batch(4)
    network = AsymmetricNetwork(perceptron(), x[:2], same_update=False)
    rule = EquilibriumPropagation(network, beta=0.2)
    gradients(rule, x, y)
    for name, module in network.feedback.items():
        weight = dict(network.layers.named_modules())[name].weight
        assert not torch.allclose(module.weight.grad, weight.grad, rtol=0.1)
