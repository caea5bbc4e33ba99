"""Batch norm in networks that settle: whose statistics are taken, when they move, and how it learns."""

import pytest
import torch
from nudged_networks import make
from settling_networks import batch, gradients
from torch import nn

from beyondprop.errors import UserError
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
from beyondprop.rules.relaxation.through_settling import BackpropThroughSettling


def with_batch_norm(**options):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6, **options), nn.Tanh(), nn.Linear(6, 5), nn.BatchNorm1d(5, **options)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(5, 3)).double()


def test_back_propagation_goes_through_the_statistics_of_the_batch():
    """Against finite differences of the loss after all steps."""
    layers = with_batch_norm()
    x, y = batch(4)
    network = ConvergentNetwork(layers, x[:2], order="synchronous")
    rule = BackpropThroughSettling(network, free_steps=4)
    found = gradients(rule, x, y)
    for parameter, gradient in zip(layers.parameters(), found, strict=True):
        for place in (0, parameter.numel() - 1):
            losses = []
            for move in (1e-5, -2e-5):
                parameter.data.view(-1)[place] += move
                losses.append(float(rule.backward(x, y)))
            parameter.data.view(-1)[place] += 1e-5
            slope = (losses[0] - losses[1]) / 2e-5
            assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("options", [{"bias": False}, {"affine": False}, {"track_running_stats": False}])
def test_batch_norm_with_less_than_all_learns_as_with_all(options):
    x, y = batch(4)
    layers, whole = with_batch_norm(**options), with_batch_norm()
    found, expected = ({}, {})
    for which, names in ((layers, found), (whole, expected)):
        make(which, x).backward(x, y)
        names.update({name: p.grad for name, p in which.named_parameters()})
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-14)


def test_without_running_statistics_those_of_the_settled_batch_are_taken_in_evaluation_too():
    x, _ = batch(4)
    layers = with_batch_norm(track_running_stats=False)
    rule = make(layers, x)
    trained = rule(x)
    layers.eval()
    torch.testing.assert_close(rule(x), trained, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kind", [EquilibriumPropagation, BackpropThroughSettling])
def test_a_step_moves_running_statistics_once_and_a_prediction_does_not(kind):
    x, y = batch(4)
    layers = with_batch_norm()
    rule = kind(ConvergentNetwork(layers, x[:2]))
    start = layers[1].running_mean.clone()
    rule(x)
    for steps in (0, 1, 2):
        assert [int(layers[place].num_batches_tracked) for place in (1, 4)] == [steps, steps]
        assert torch.equal(layers[1].running_mean, start) == (steps == 0)
        rule.backward(x, y)


@pytest.mark.parametrize("kind", [EquilibriumPropagation, BackpropThroughSettling])
def test_a_batch_of_one_has_no_statistics(kind):
    layers = with_batch_norm()
    x, y = batch(4)
    rule = kind(ConvergentNetwork(layers, x[:1]))
    with pytest.raises(UserError, match=r"layer 1 \(BatchNorm1d\) .* more than one number"):
        rule.backward(x[:1], y[:1])
    layers.eval()
    rule.backward(x[:1], y[:1])
