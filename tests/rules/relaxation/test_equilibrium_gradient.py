"""Equilibrium propagation: its estimate against the gradient of the loss at the fixed point, found without it."""

import itertools
import math

import pytest
import torch
from nudged_networks import LONG, READOUTS, Hopfield, deep, make
from settling_networks import Oracle, batch, convolutional, distance, gradients, perceptron
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.measure import alignment
from beyondprop.measure.memory import peak_saved_bytes
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
from beyondprop.rules.relaxation.through_settling import BackpropThroughSettling


def loss_at_rest(layers, readout, shapes, x, y):
    oracle = Oracle(layers, readout)
    return float(oracle.loss(oracle.settle(x, shapes), y).mean().detach())


@pytest.mark.slow
@pytest.mark.parametrize("readout", READOUTS)
def test_the_estimate_is_the_derivative_of_the_loss_at_the_fixed_point_by_finite_differences(readout):
    layers = perceptron()
    x, y = batch(4)
    rule = make(layers, x, readout, beta=1e-3, **LONG)
    shapes = rule.settling_network.shapes
    found = gradients(rule, x, y)
    for parameter, gradient in zip(layers.parameters(), found, strict=True):
        for place in (0, parameter.numel() - 1):
            losses = []
            for move in (1e-5, -2e-5):
                parameter.data.view(-1)[place] += move
                losses.append(loss_at_rest(layers, readout, shapes, x, y))
            parameter.data.view(-1)[place] += 1e-5
            slope = (losses[0] - losses[1]) / 2e-5
            assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("nudging", "order"), [("one-sided", 1), ("symmetric", 2)])
@pytest.mark.parametrize("readout", READOUTS)
def test_the_order_of_the_bias(readout, nudging, order):
    """Against the implicit function theorem: the error falls as beta, or as its square."""
    layers = perceptron()
    x, y = batch(4)
    network = ConvergentNetwork(layers, x[:2], readout=readout)
    exact = Oracle(layers, readout).implicit(x, y, network.shapes, list(layers.parameters()))
    betas = [0.1, 0.05, 0.025]
    errors = [
        distance(gradients(EquilibriumPropagation(network, beta=beta, nudging=nudging, **LONG), x, y), exact)
        for beta in betas
    ]
    slopes = [math.log(a / b) / math.log(2) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([order] * 2, abs=0.12)
    assert errors[-1] < 0.05


@pytest.mark.parametrize(
    ("options", "error"), [({"smooth": True}, 1e-6), ({"squash": nn.Sigmoid}, 1e-4)], ids=["mean", "max"]
)
@pytest.mark.parametrize("readout", READOUTS)
def test_in_the_limit_it_is_back_propagation_through_all_steps(readout, options, error):
    layers = convolutional(gain=0.5, **options)
    x, y = batch(1, 14, 14)
    rule = make(layers, x, readout, beta=1e-4, **LONG)
    exact = gradients(BackpropThroughSettling(rule.settling_network, free_steps=300), x, y)
    assert distance(gradients(rule, x, y), exact) < error


@pytest.mark.parametrize("readout", READOUTS)
def test_k_nudged_steps_are_k_steps_of_back_propagation_through_time(readout):
    """Step by step from a fixed point, all states moving at once (Ernoult et al., arXiv 1905.13633, Theorem 1)."""
    layers = perceptron()
    x, y = batch(4)
    network = ConvergentNetwork(layers, x[:2], readout=readout, order="synchronous")
    differences = []
    for steps in (1, 2, 3, 5, 8):
        rule = EquilibriumPropagation(network, beta=1e-4, free_steps=400, nudged_steps=steps)
        through = BackpropThroughSettling(network, free_steps=400, through=steps)
        exact = gradients(through, x, y)
        assert distance(gradients(rule, x, y), exact) < 1e-6
        differences.append(distance(exact, gradients(BackpropThroughSettling(network, free_steps=400), x, y)))
    assert differences[0] > 10 * differences[-1]  # it is not that few steps were enough


def test_one_sided_and_random_sign_are_what_they_say():
    layers = perceptron()
    x, y = batch(4)
    ends = {}
    for sign in (1, -1):
        # by hand: the free phase, one nudge of that sign, and the difference of both
        network = ConvergentNetwork(layers, x[:2])
        oracle = Oracle(layers, "softmax")
        free = oracle.settle(x, network.shapes)
        nudged = free
        for _ in range(300):
            nudged = oracle.step(x, nudged, y, 0.2 * sign)
        total = (oracle.phi(x, nudged) - 0.2 * sign * oracle.loss(nudged, y)).mean() - oracle.phi(x, free).mean()
        ends[sign] = torch.autograd.grad(-total / (0.2 * sign), list(layers.parameters()))
    assert distance(gradients(make(layers, x, beta=0.2, nudging="one-sided", **LONG), x, y), ends[1]) < 1e-9
    rule = make(layers, x, beta=0.2, nudging="random-sign", **LONG)
    torch.manual_seed(0)
    seen = set()
    for _ in range(8):
        found = gradients(rule, x, y)
        sign = min(ends, key=lambda sign: distance(found, ends[sign]))
        assert distance(found, ends[sign]) < 1e-9
        seen.add(sign)
    assert seen == {1, -1}


@pytest.mark.parametrize("nudging", ["symmetric", "one-sided"])
def test_the_scale_is_that_of_the_mean_over_the_batch(nudging):
    x, y = batch(4)
    rule = make(perceptron(), x, beta=0.1, nudging=nudging)
    once, many = gradients(rule, x, y), gradients(rule, x.repeat(3, 1), y.repeat(3))
    assert distance(many, once) < 1e-12


def test_a_users_network_with_a_primitive_function_needs_nothing_else():
    torch.manual_seed(0)
    network = Hopfield().double()
    x, y = batch(4)
    rule = EquilibriumPropagation(network, beta=1e-3, **LONG)

    def loss():
        with torch.no_grad():
            s = torch.zeros(5, 9, dtype=torch.float64)
            coupled = (network.couplings + network.couplings.T) / 2
            for _ in range(500):
                s = torch.tanh(s @ coupled + network.into(x))
            return float(F.cross_entropy(s[:, :3], y))

    found = gradients(rule, x, y)
    for parameter, gradient in zip(network.parameters(), found, strict=True):
        for place in range(0, parameter.numel(), 5):
            parameter.data.view(-1)[place] += 1e-5
            up = loss()
            parameter.data.view(-1)[place] -= 2e-5
            slope = (up - loss()) / 2e-5
            parameter.data.view(-1)[place] += 1e-5
            assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-7)
    exact = gradients(BackpropThroughSettling(network, free_steps=200), x, y)
    assert distance(found, exact) < 1e-5
    with torch.inference_mode():
        scores = rule(x * 1)
    torch.testing.assert_close(scores, rule(x).detach())
    assert peak_saved_bytes(lambda: rule.backward(x, y), rule) < 10_000


def test_its_angle_is_to_back_propagation_through_the_settling():
    x, y = batch(4)
    rule = make(perceptron(), x, beta=1e-2, free_steps=100, nudged_steps=100)
    for found in alignment(rule, x, y).values():
        assert found.angle < 1
        assert found.norm_ratio == pytest.approx(1, abs=1e-2)


def test_a_nudge_as_large_as_the_recipes_is_far_from_the_gradient_in_convolutions_and_a_small_one_is_not():
    layers, x, y = deep("convolutional", classes=10, gain=1.0)
    angles = {}
    for beta in (1.0, 0.01):
        rule = make(layers, x, beta=beta, free_steps=60, nudged_steps=40)
        angles[beta] = [found.angle for found in alignment(rule, x, y).values()]
    assert min(angles[1.0][:4]) > 30
    assert angles[1.0][4] < 10  # of the readout
    assert max(angles[0.01]) < 1


def test_squared_error_takes_numbers_and_classes():
    x, y = batch(4)
    rule = make(perceptron(), x, "squared")
    one_hot = F.one_hot(y, 3).double()
    assert distance(gradients(rule, x, y), gradients(rule, x, one_hot)) == 0
    with pytest.raises(UserError, match="targets of shape"):
        rule.backward(x, one_hot[:, :2])
