"""The free and the nudged phase: what is read from them, and how a tolerance ends them early."""

import pytest
import torch
from nudged_networks import Hopfield, deep, make
from settling_networks import Oracle, batch, distance, gradients, perceptron
from torch import nn

from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
from beyondprop.rules.relaxation.settling import Nudge, PrimitiveNetwork


def test_the_loss_is_that_of_the_free_phase_and_the_prediction_its_scores():
    layers = perceptron()
    x, y = batch(4)
    rule = make(layers, x, free_steps=300)
    layers.requires_grad_(False)
    oracle = Oracle(layers, "softmax")
    star = oracle.settle(x, rule.settling_network.shapes)
    assert float(rule.backward(x, y)) == pytest.approx(float(oracle.loss(star, y).mean()))
    torch.testing.assert_close(rule(x), oracle.last(star[-1]))
    assert float((rule(x, steps=1) - rule(x)).abs().max()) > 1e-4
    assert float((rule(x, tolerance=1e-9) - rule(x)).abs().max()) < 1e-7
    rule.tolerance = 1e-2
    assert float((rule(x) - oracle.last(star[-1])).abs().max()) > 1e-9


def test_the_settling_curve_is_of_both_phases():
    x, y = batch(4)
    rule = make(perceptron(), x, free_steps=30, nudged_steps=7)
    found = rule.settling(x, y)
    assert found.names == ["1", "3", "5"]
    assert [len(found.free), len(found.nudged)] == [30, 7]
    assert all(len(row) == 3 for row in found.free + found.nudged)
    assert max(found.free[-1]) < 1e-3 * max(found.free[0])
    assert max(found.nudged[0]) > 1e-3
    assert rule.settling(x).nudged == []
    one_sided = make(perceptron(), x, nudging="one-sided", nudged_steps=7).settling(x, y)
    assert len(one_sided.nudged) == 7


def test_a_tolerance_ends_phases_early_with_nearly_the_same_gradient():
    x, y = batch(4)
    rule = make(perceptron(), x, free_steps=300, nudged_steps=300, beta=0.3)
    exact = gradients(rule, x, y)
    rule.tolerance = 1e-5
    found = rule.settling(x, y)
    assert len(found.free) < 60
    assert len(found.nudged) < 100
    assert 0 < distance(gradients(rule, x, y), exact) < 1e-3


@pytest.mark.parametrize("order", ["synchronous", "even-odd", "sequential"])
@pytest.mark.parametrize(("kind", "beta"), [("convolutional", 0.5), ("linear", 0.1)])
def test_under_a_tolerance_every_layer_of_a_deep_net_learns_as_without(kind, beta, order):
    """What a nudge does to the first states is small beside them: by their own tolerance it would end at once."""
    layers, x, y = deep(kind)
    rule = make(layers, x, order=order, beta=beta, free_steps=300, nudged_steps=300)
    exact = gradients(rule, x, y)
    rule.tolerance = 1e-3
    for found, expected in zip(gradients(rule, x, y), exact, strict=True):
        assert distance([found], [expected]) < 0.02
    found = rule.settling(x, y)
    assert len(found.free) < 60
    assert len(found.nudged) < 100


@pytest.mark.parametrize("order", ["synchronous", "even-odd", "sequential"])
@pytest.mark.parametrize("kind", ["convolutional", "linear"])
def test_a_nudged_phase_does_not_end_before_the_nudge_is_felt_in_every_state(kind, order):
    layers, x, y = deep(kind)
    rule = make(layers, x, order=order, beta=0.1, free_steps=600, nudged_steps=50, tolerance=1.0)
    network = rule.settling_network
    with torch.no_grad():
        inputs = network.prepare(x)
        star = network.relax(inputs, None, 600)
        reach = network.reach(star)
        nudge = Nudge(network.targets(y, network.scores(inputs, star)), x.new_full((5,), 0.1))
        for steps, felt in ((reach - 1, False), (reach, True)):
            moved, still = (network.relax(inputs, star, steps, each) for each in (nudge, None))
            assert (not torch.equal(moved[0], still[0])) == felt
    assert reach == {"synchronous": len(star), "even-odd": (len(star) + 1) // 2, "sequential": 1}[order]
    assert len(rule.settling(x, y).nudged) == reach  # a tolerance of all the way would let it end at once
    rule.nudged_steps = 1
    assert len(rule.settling(x, y).nudged) == 1  # never more than T2


def test_a_users_network_takes_a_step_from_one_state_to_the_next():
    assert Hopfield().reach([torch.zeros(2, 9)]) == 1
    assert PrimitiveNetwork.reach(Hopfield(), [torch.zeros(2, 9)] * 3) == 3


@pytest.mark.parametrize("nudging", ["one-sided", "random-sign"])
def test_free_states_that_one_nudge_is_compared_with_settle_further(nudging):
    layers, x, y = deep("linear")
    free = {
        kind: make(layers, x, beta=0.1, nudging=kind, free_steps=400, tolerance=1e-3).settling(x, y).free
        for kind in ("symmetric", nudging)
    }
    assert max(free["symmetric"][-1]) <= 1e-3 < max(free["symmetric"][-2])
    assert max(free[nudging][-1]) <= 1e-4 < max(free[nudging][-2])


def test_an_activation_that_works_in_place_is_as_one_that_does_not():
    """It would overwrite the drive of its state, which is computed once for all steps."""
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Linear(4, 6), nn.ReLU(inplace), nn.Linear(6, 5), nn.Hardtanh(0, 1, inplace), nn.Linear(5, 3)
        )
        rule = EquilibriumPropagation.for_classifier(layers.double(), torch.zeros(1, 4).double(), 3)
        x, y = torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1])
        found.append([rule(x), rule.backward(x, y), *(p.grad for p in rule.parameters())])
    torch.testing.assert_close(*found, rtol=0, atol=0)
