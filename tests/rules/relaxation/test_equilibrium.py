"""Equilibrium propagation: its estimate against the gradient of the loss at the fixed point, found without it."""

import copy
import itertools
import math

import pytest
import torch
from settling_networks import Oracle, batch, convolutional, distance, gradients, perceptron, shrunk
from torch import nn
from torch.nn import functional as F

from beyondprop import data, evaluate
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.layers.hard_sigmoid import HardSigmoid
from beyondprop.measure import alignment
from beyondprop.measure.memory import peak_live_bytes, peak_saved_bytes
from beyondprop.rules.relaxation.asymmetric import AsymmetricNetwork
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
from beyondprop.rules.relaxation.settling import Nudge, PrimitiveNetwork
from beyondprop.rules.relaxation.through_settling import BackpropThroughSettling

READOUTS = ("softmax", "squared")
LONG = {"free_steps": 300, "nudged_steps": 300}


class Hopfield(PrimitiveNetwork):
    """A user's own: all units hear of all others, Phi = s'Js/2 + (Wx + b)'s, and three of them are read."""

    def __init__(self, inputs: int = 4, units: int = 9) -> None:
        super().__init__()
        self.couplings = nn.Parameter(0.1 * torch.randn(units, units))
        self.into = nn.Linear(inputs, units)

    def initial_states(self, inputs):
        return [inputs.new_zeros(len(inputs), self.into.out_features)]

    def primitive(self, inputs, states):
        (s,) = states
        return (s * (s @ self.couplings)).sum(1) / 2 + (s * self.into(inputs)).sum(1)

    def squash(self, drives):
        return [torch.tanh(drive) for drive in drives]

    def scores(self, inputs, states):
        return states[0][:, :3]

    def cost(self, inputs, states, y):
        return F.cross_entropy(self.scores(inputs, states), y, reduction="none")


def make(layers, x, readout="softmax", order="even-odd", **options):
    return EquilibriumPropagation(ConvergentNetwork(layers, x[:2], readout=readout, order=order), **options)


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


@pytest.mark.parametrize("order", ["even-odd", "synchronous"])
@pytest.mark.parametrize("nudging", ["symmetric", "one-sided"])
@pytest.mark.parametrize(("layers", "size"), [(perceptron, (4,)), (convolutional, (1, 14, 14))])
def test_memory_does_not_grow_with_the_number_of_steps(layers, size, nudging, order):
    """The convolutions have max-pooling, whose switches every step has anew."""
    x, y = batch(*size, count=64)
    sizes = []
    for steps in (4, 20):
        rule = make(layers(), x, beta=0.1, order=order, nudging=nudging, free_steps=steps, nudged_steps=steps)
        rule.backward(x, y)
        peaks = peak_live_bytes(lambda rule=rule: rule.backward(x, y), rule)
        sizes.append((peak_saved_bytes(lambda rule=rule: rule.backward(x, y), rule), peaks))
    assert sizes[0] == sizes[1]


def test_memory_of_back_propagation_grows_with_the_steps_it_goes_through():
    x, y = batch(4, count=64)
    network = ConvergentNetwork(perceptron(), x[:2])
    saved = []
    for steps in (5, 10, 20):
        rule = BackpropThroughSettling(network, free_steps=20, through=steps)
        saved.append(peak_saved_bytes(lambda rule=rule: rule.backward(x, y), rule))
    assert saved[2] - saved[1] == 2 * (saved[1] - saved[0]) > 0


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


def test_it_trains_the_users_own_parameters():
    layers = convolutional()
    x, _ = batch(1, 14, 14)
    rule = EquilibriumPropagation.for_classifier(layers, x, 3)
    assert [id(p) for p in rule.parameters()] == [id(p) for p in layers.parameters()]
    assert rule.settling_network.layers is layers


def test_frozen_layers_stay_and_the_others_learn_as_before():
    layers = perceptron()
    x, y = batch(4)
    whole = gradients(make(layers, x), x, y)
    layers[2].requires_grad_(False)
    rule = make(layers, x)
    found = gradients(rule, x, y)
    assert layers[2].weight.grad is None
    assert all(torch.equal(a, b) for n, (a, b) in enumerate(zip(found, whole, strict=True)) if n not in (2, 3))


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


def deep(kind, classes=3, gain=0.7):
    """Nets of so many states that a nudge takes a while to the first one: four convolutions, or five linear layers."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    layers: list[nn.Module] = []
    if kind == "convolutional":
        for channels, padding in ((3, 1), (8, 1), (8, 1), (8, 0)):
            layers += [nn.Conv2d(channels, 8, 3, padding=padding), nn.MaxPool2d(2), HardSigmoid(2.0)]
        layers += [nn.Flatten(), nn.Linear(8, classes)]
        x = torch.randn(5, 3, 32, 32, generator=generator, dtype=torch.float64)
    else:
        for width in (16, 20, 20, 20, 20):
            layers += [nn.Linear(width, 20), nn.Tanh()]
        layers += [nn.Linear(20, classes)]
        x = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    return shrunk(nn.Sequential(*layers), gain), x, torch.randint(classes, (5,), generator=generator)


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


def test_what_does_not_settle_is_named():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(10.0)
    rule = EquilibriumPropagation.for_classifier(layers, torch.zeros(1, 4), 3, free_steps=200)
    with pytest.raises(NonFiniteError, match=r"state of layer 1, which does not settle"):
        rule.backward(torch.ones(2, 4), torch.tensor([0, 1]))
    assert all(p.grad is None for p in layers.parameters())


def test_a_nudge_that_does_not_settle_is_named():
    x, y = batch(4)
    rule = make(perceptron(), x, "squared", beta=1e6, nudged_steps=100)
    with pytest.raises(NonFiniteError, match=r"gradient of .* lower beta"):
        rule.backward(x, y)
    assert all(p.grad is None for p in rule.parameters())


@pytest.mark.parametrize(
    "option",
    [{"beta": 0}, {"beta": math.nan}, {"free_steps": 0}, {"nudged_steps": 0}, {"tolerance": -1}, {"nudging": "both"}],
)
def test_settings_out_of_range_are_refused(option):
    with pytest.raises(UserError, match=next(iter(option))):
        make(perceptron(), batch(4)[0], **option)


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -1.0])
def test_a_prediction_checks_its_own_tolerance(tolerance):
    x, _ = batch(4)
    with pytest.raises(UserError, match="tolerance"):
        make(perceptron(), x)(x, tolerance=tolerance)


def test_options_of_a_classifier_that_contradict_each_other_are_refused():
    x, _ = batch(4)
    with pytest.raises(UserError, match="same_update"):
        EquilibriumPropagation.for_classifier(perceptron(), x, 3, same_update=True)
    for readout in READOUTS:
        with pytest.raises(UnsupportedNetworkError, match="3 scores, but there are 10 classes"):
            EquilibriumPropagation.for_classifier(perceptron(), x, 10, readout=readout)


@pytest.mark.parametrize("size", [(1, 14, 15), (2, 14, 14), (14, 14), ()])
def test_a_batch_of_other_samples_than_the_examples_is_told(size):
    x, y = batch(1, 14, 14)
    rule = make(convolutional(), x)
    other = torch.zeros(5, *size).double()
    for call in (rule, lambda x: rule.backward(x, y), rule.settling):
        with pytest.raises(UserError, match=r"x has shape \(5,.*made for \(batch, 1, 14, 14\)$"):
            call(other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.float16])
def test_a_batch_of_another_type_than_the_weights_is_told(dtype):
    x, _ = batch(1, 14, 14)
    rule = make(convolutional().float(), x.float())
    with pytest.raises(UserError, match=f"x is .*{str(dtype).removeprefix('torch.')} and the weights"):
        rule(x.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert rule(x.float()).isfinite().all()
        with pytest.raises(UserError, match="and the weights"):
            rule(x.to(torch.uint8))


def test_what_is_no_settling_network_is_refused():
    with pytest.raises(UserError, match="for_classifier"):
        EquilibriumPropagation(nn.Linear(4, 3))
    with pytest.raises(UserError, match="feedback"):
        EquilibriumPropagation.for_classifier(perceptron(), batch(4)[0], 3, feedback="none")
    assert EquilibriumPropagation.supports(Hopfield()) is None
    assert "no nn.Sequential" in EquilibriumPropagation.supports(nn.Linear(4, 3))
    assert "no activation" in EquilibriumPropagation.supports(nn.Sequential(nn.Linear(4, 3)))
    wrong = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    assert "layer 1 (LayerNorm)" in EquilibriumPropagation.supports(wrong)
    with pytest.raises(UnsupportedNetworkError, match=r"layer 1 \(LayerNorm\)"):
        EquilibriumPropagation.for_classifier(wrong, torch.zeros(1, 4), 3)


@pytest.mark.parametrize(
    ("options", "decay", "aligned"),
    [
        ({"nudging": "random-sign"}, 0.0, None),
        ({"feedback": "asymmetric", "same_update": True}, 5e-3, (0.9, 1.0)),
        ({"feedback": "asymmetric", "same_update": True, "nudging": "random-sign"}, 5e-3, (0.9, 1.0)),
        ({"feedback": "asymmetric", "same_update": False}, 0.0, (0.1, 0.7)),
    ],
    ids=["random sign", "the same update", "the same update, random sign", "the different update"],
)
def test_it_learns_digits_by_nudges_of_random_sign_and_by_feedback_of_its_own(options, decay, aligned):
    """On held-out digits; feedback begins at random, and by the same update, with weight decay, becomes the weights."""
    torch.manual_seed(0)
    train, test = data.load("digits")
    batches = data.Batches(train, 64, shuffle=True)
    layers = nn.Sequential(
        *[nn.Flatten(), nn.Linear(64, 64), HardSigmoid(), nn.Linear(64, 64), HardSigmoid(), nn.Linear(64, 10)]
    )
    x, _ = next(iter(batches))
    rule = EquilibriumPropagation.for_classifier(layers, x, 10, free_steps=12, nudged_steps=4, **options)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)

    def likeness():
        weights = [rule.settling_network.feedback["3"].weight, layers[3].weight]
        return float(F.cosine_similarity(*(weight.detach().flatten() for weight in weights), dim=0))

    if aligned:
        assert abs(likeness()) < 0.1
    for _ in range(10):
        for x, y in batches:
            optimizer.zero_grad()
            rule.backward(x, y)
            optimizer.step()
    held_out = data.Batches(test, 360, shuffle=False, statistics=batches.statistics)
    assert evaluate(rule, held_out)["accuracy"] > 0.8
    if aligned:
        assert aligned[0] < likeness() <= aligned[1] + 1e-6


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("feedback", ["symmetric", "asymmetric"])
def test_it_learns_in_every_form(feedback, readout):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 24), HardSigmoid(2.0), nn.Linear(24, 16), HardSigmoid(2.0), nn.Linear(16, 2))
    layers = nn.Sequential(*layers, HardSigmoid(2.0)) if readout == "squared" else layers
    x = torch.randn(256, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    rule = EquilibriumPropagation.for_classifier(layers, x[:2], 2, feedback=feedback, readout=readout)
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.02)
    before = copy.deepcopy(rule.state_dict())
    for _ in range(150):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    assert all(not torch.equal(before[key], value) for key, value in rule.state_dict().items())
    with torch.inference_mode():
        assert (rule(x).argmax(1) == y).double().mean() > 0.8
