"""The hand-written steps and gradients of convergent networks, against autograd of a primitive function."""

import copy
import itertools

import pytest
import torch
from settling_networks import CASES, Oracle, batch, convolutional, perceptron
from torch import nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.layers.dropout import Dropout
from beyondprop.layers.hard_sigmoid import HardSigmoid
from beyondprop.rules.relaxation.asymmetric import AsymmetricNetwork
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
from beyondprop.rules.relaxation.settling import Contrast, Nudge, PrimitiveNetwork

READOUTS = ("softmax", "squared")


def drawn(network, inputs, seed=0):
    """Random states: nothing cancels there as it does where the network has settled."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(state.shape, generator=generator, dtype=torch.float64) for state in network.initial_states(inputs)
    ]


def make(case, readout, kind=ConvergentNetwork, **options):
    build, size = CASES[case]
    layers = build()
    x, y = batch(*size)
    return layers, kind(layers, x[:2], readout=readout, **options), x, y


@pytest.mark.parametrize("beta", [None, 0.3, -0.7])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_gradient_of_phi_to_rounding(case, readout, beta):
    layers, network, x, y = make(case, readout)
    inputs = network.prepare(x)
    states = drawn(network, inputs)
    nudge = None
    if beta is not None:
        targets = network.targets(y, network.scores(inputs, states))
        nudge = Nudge(targets, torch.full((5,), beta, dtype=torch.float64))
    with torch.no_grad():
        found = network.step(inputs, states, nudge)
        general = PrimitiveNetwork.step(network, inputs, states, nudge)
    expected = Oracle(layers, readout).step(x, states, None if beta is None else y, beta or 0.0)
    for mine, theirs, other in zip(found, expected, general, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(other, theirs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("betas", [(0.3, -0.3), (0.3, 0.0), (-0.2, 0.0)])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_phi_to_rounding(case, readout, betas):
    layers, network, x, y = make(case, readout)
    inputs = network.prepare(x)
    free, high, low = (drawn(network, inputs, seed) for seed in range(3))
    contrast = Contrast(free, high, low, *betas)
    targets = network.targets(y, network.scores(inputs, free))
    found = network.gradients(inputs, targets, contrast)
    general = PrimitiveNetwork.gradients(network, inputs, targets, contrast)
    oracle = Oracle(layers, readout)
    up, down = (
        (oracle.phi(x, states) - beta * oracle.loss(states, y)).mean()
        for states, beta in zip((high, low), betas, strict=True)
    )
    parameters = list(layers.parameters())
    expected = torch.autograd.grad(-(up - down) / (betas[0] - betas[1]), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(general[parameter], gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("same_update", [True, False])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("case", CASES)
def test_asymmetric_steps_and_gradients_are_those_of_each_states_own_phi(case, readout, same_update):
    """phi_n = <s_n, f(s_{n-1}; W_n)> + <f(s_n; B_{n+1}), s_{n+1}>, differentiated by s_n, or by the weights."""
    layers, network, x, y = make(case, readout, AsymmetricNetwork, same_update=same_update)
    inputs = network.prepare(x)
    free, high, low = (drawn(network, inputs, seed) for seed in range(3))
    y = network.targets(y, network.scores(inputs, free))
    oracle = Oracle(layers, readout)
    ways = [part for part, _ in oracle.parts]
    own = iter(network.feedback.values())
    backs = [
        nn.Sequential(*[next(own) if any(True for _ in layer.parameters()) else layer for layer in way])
        for way in ways[1:]
    ]

    def phi(number, post, pre):
        below = [x, *pre][number]
        total = (ways[number](below) * post[number]).sum()
        if number + 1 < len(post):
            total = total + (backs[number](post[number]) * pre[number + 1]).sum()
        return total

    def readout_loss(states, beta):
        return 0 if network.readout is None else beta * network.cost(inputs, states, y).sum()

    held = [state.clone().requires_grad_() for state in free]
    slopes = [
        torch.autograd.grad(phi(number, [*free[:number], held[number], *free[number + 1 :]], free), held[number])[0]
        for number in range(len(free))
    ]
    for mine, slope, (_, squash) in zip(network.step(inputs, free), slopes, oracle.parts, strict=True):
        torch.testing.assert_close(mine, squash(slope), rtol=1e-12, atol=1e-13)

    beta, parameters = 0.3, list(network.parameters())
    value = sum(
        sign * phi(number, states, states if same_update else free)
        for sign, states in ((1, high), (-1, low))
        for number in range(len(free))
    )
    value = value - readout_loss(high, beta) - readout_loss(low, beta)
    expected = dict(zip(parameters, torch.autograd.grad(-value / (5 * 2 * beta), parameters), strict=True))
    if same_update:
        for way, back in zip(ways[1:], backs, strict=True):
            pairs = [(a.weight, b.weight) for a, b in zip(way, back, strict=True) if any(True for _ in a.parameters())]
            for weight, twin in pairs:
                expected[weight] = expected[twin] = (expected[weight] + expected[twin]) / 2
    found = network.gradients(inputs, y, Contrast(free, high, low, beta, -beta))
    for parameter in parameters:
        torch.testing.assert_close(found[parameter], expected[parameter], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("readout", READOUTS)
def test_tied_feedback_settles_as_the_symmetric_network(readout):
    layers, network, x, _ = make("convolutional", readout)
    tied = AsymmetricNetwork(layers, x[:2], readout=readout)
    twins = itertools.chain(*(back.stages for back in tied.returns))
    stages = itertools.chain(*(section.connection.stages for section in tied.sections[1:]))
    for twin, stage in zip(twins, stages, strict=True):
        if twin is not stage:
            twin.module.weight.data.copy_(stage.module.weight.data)
    pair = [kind.relax(kind.prepare(x), None, 7) for kind in (network, tied)]
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("readout", READOUTS)
def test_after_k_even_odd_steps_states_stand_where_2k_or_one_less_synchronous_ones_leave_them(readout):
    """In a chain every other state hears nothing of its own kind: the same numbers, for half of the products."""
    layers, network, x, _ = make("perceptron", readout)
    alternating = ConvergentNetwork(layers, x[:2], readout=readout, order="even-odd")
    inputs = network.prepare(x)
    steps = [network.initial_states(inputs)]
    for _ in range(8):
        steps.append(network.step(inputs, steps[-1]))
    for k in range(1, 5):
        for number, state in enumerate(alternating.relax(inputs, None, k)):
            torch.testing.assert_close(state, steps[2 * k - 1 + number % 2][number], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("readout", READOUTS)
def test_to_a_residual_even_odd_and_sequential_take_one_step_more_than_half_of_the_synchronous_ones(readout):
    """One more, for what a state moves by in a step is what it moves by in two synchronous ones."""
    layers, _, x, _ = make("perceptron", readout)
    for tolerance in (1e-2, 1e-3, 1e-6):
        counts = []
        for order in ("synchronous", "even-odd", "sequential"):
            network = ConvergentNetwork(layers, x[:2], readout=readout, order=order)
            curve: list[list[float]] = []
            with torch.no_grad():
                network.relax(network.prepare(x), None, 200, tolerance=tolerance, residuals=curve)
            counts.append(len(curve))
        synchronous, alternating, sequential = counts
        assert alternating == synchronous // 2 + 1
        assert abs(sequential - alternating) <= 1


@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("kind", [ConvergentNetwork, AsymmetricNetwork])
def test_all_orders_settle_at_the_same_point(kind, beta):
    layers = convolutional(gain=0.5, smooth=True)
    x, y = batch(1, 14, 14)
    nudge = None if beta is None else Nudge(y, torch.full((5,), beta, dtype=torch.float64))
    ends = []
    for order in ("synchronous", "even-odd", "sequential"):
        torch.manual_seed(3)  # for the feedback
        network = kind(layers, x[:2], order=order)
        ends.append(network.relax(network.prepare(x), None, 300, nudge))
    for states in zip(*ends, strict=True):
        torch.testing.assert_close(states[0], states[1], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(states[0], states[2], rtol=1e-12, atol=1e-13)


def test_the_sequential_order_begins_with_a_forward_pass():
    layers, network, x, _ = make("perceptron", "softmax", order="sequential")
    states = network.relax(network.prepare(x), None, 1)
    torch.testing.assert_close(layers[:6](x), states[-1])


def test_a_step_does_nothing_where_the_network_has_settled():
    layers, network, x, _ = make("perceptron", "softmax")
    inputs = network.prepare(x)
    star = Oracle(layers, "softmax").settle(x, network.shapes)
    for order in ("synchronous", "even-odd", "sequential"):
        network.order = order
        for now, then in zip(network.relax(inputs, star, 1), star, strict=True):
            torch.testing.assert_close(now, then, rtol=1e-12, atol=1e-13)


def test_residuals_are_root_mean_squares_and_a_tolerance_ends_the_phase():
    _, network, x, _ = make("perceptron", "softmax")
    network.requires_grad_(False)
    inputs = network.prepare(x)
    curve: list[list[float]] = []
    states = [network.initial_states(inputs), *(network.relax(inputs, None, steps) for steps in range(1, 4))]
    network.relax(inputs, None, 3, residuals=curve)
    for number, found in enumerate(curve):
        expected = [
            float((b - a).square().mean().sqrt()) for a, b in zip(states[number], states[number + 1], strict=True)
        ]
        assert found == pytest.approx(expected)
    short: list[list[float]] = []
    network.relax(inputs, None, 500, tolerance=1e-6, residuals=short)
    assert len(short) < 100
    assert max(short[-1]) <= 1e-6 < max(short[-2])


def test_dropout_keeps_its_mask_in_all_phases():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(4, 30), nn.Tanh(), Dropout(0.5), nn.Linear(30, 20), nn.Tanh(), nn.Dropout(0.5), nn.Linear(20, 3)
    ).double()
    x, y = batch(4)
    network = ConvergentNetwork(layers, x[:2])
    inputs = network.prepare(x)
    states = network.relax(inputs, None, 6)
    network.scores(inputs, states)
    masks = list(inputs.held.masks.values())
    assert [mask.shape for mask in masks] == [(5, 30), (5, 20)]
    assert all(set(mask.unique().tolist()) == {0.0, 2.0} for mask in masks)
    twice = network.repeat(inputs, 2)
    assert all(torch.equal(torch.cat([a, a]), b) for a, b in zip(masks, twice.held.masks.values(), strict=True))
    nudge = Nudge(y, torch.full((5,), 0.3, dtype=torch.float64))
    general = PrimitiveNetwork.step(network, inputs, states, nudge)  # by autograd of Phi with these masks
    for a, b in zip(network.step(inputs, states, nudge), general, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    contrast = Contrast(states, drawn(network, inputs, 1), drawn(network, inputs, 2), 0.3, -0.3)
    found, expected = network.gradients(inputs, y, contrast), PrimitiveNetwork.gradients(network, inputs, y, contrast)
    for parameter in layers.parameters():
        torch.testing.assert_close(found[parameter], expected[parameter], rtol=1e-11, atol=1e-12)
    layers.eval()
    plain = network.prepare(x)
    network.scores(plain, network.relax(plain, None, 2))
    assert not plain.held.masks


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_takes_the_settled_batch_and_is_held_in_other_phases(training):
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(3), nn.BatchNorm1d(6, momentum=None)
    layers = nn.Sequential(
        *[nn.Conv2d(1, 3, 3), first, nn.Tanh(), nn.Flatten(), nn.Linear(12, 6), second, nn.Tanh(), nn.Linear(6, 3)]
    ).double()
    with torch.no_grad():
        for norm in (first, second):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
            norm.running_mean.normal_()
    x, y = batch(1, 4, 4)
    network = ConvergentNetwork(layers, x[:2])
    layers.train(training)
    reference = [torch.nn.BatchNorm2d(3).double(), torch.nn.BatchNorm1d(6, momentum=None).double()]
    for norm, twin in zip((first, second), reference, strict=True):
        twin.load_state_dict(norm.state_dict())
        twin.train(training)
    inputs = network.prepare(x)
    states = network.relax(inputs, None, 300)
    drive = layers[4](layers[3](states[0]))
    normed = [reference[0](layers[0](x)), reference[1](drive)]  # moves the twins' running statistics once
    torch.testing.assert_close(inputs.drive, normed[0])
    torch.testing.assert_close(states[1], torch.tanh(normed[1]), rtol=1e-9, atol=1e-10)
    network.conclude(inputs)
    for norm, twin in zip((first, second), reference, strict=True):
        for key, value in twin.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[key], value, rtol=1e-9, atol=1e-10)
    random = drawn(network, inputs)
    general = PrimitiveNetwork.step(network, inputs, random)
    for a, b in zip(network.step(inputs, random), general, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    contrast = Contrast(states, random, drawn(network, inputs, 2), 0.3, -0.3)
    found, expected = network.gradients(inputs, y, contrast), PrimitiveNetwork.gradients(network, inputs, y, contrast)
    for parameter in layers.parameters():
        torch.testing.assert_close(found[parameter], expected[parameter], rtol=1e-11, atol=1e-12)


def test_a_list_of_layers_makes_the_same_network():
    layers, network, x, _ = make("convolutional", "softmax")
    listed = ConvergentNetwork(list(layers), x[:2])
    for a, b in zip(*(n.relax(n.prepare(x), None, 3) for n in (network, listed)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_that_stands_in_two_places_is_in_both(nested):
    """As the network of copies; the gradient of shared weights is the sum of the copies'."""
    torch.manual_seed(0)
    squash, middle = nn.Tanh(), nn.Linear(6, 6)
    pair = [middle, squash]
    parts = [nn.Linear(4, 6), squash, *([nn.Sequential(*pair)] * 2 if nested else pair * 2), nn.Linear(6, 3)]
    shared = nn.Sequential(*parts).double()
    apart = nn.Sequential(*[copy.deepcopy(layer) for layer in parts])
    x, y = batch(4)
    rules = [EquilibriumPropagation(ConvergentNetwork(layers, x[:2]), beta=0.2) for layers in (shared, apart)]
    torch.testing.assert_close(rules[0](x), rules[1](x), rtol=1e-13, atol=1e-14)
    for rule in rules:
        rule.backward(x, y)
    twins = (apart[2][0], apart[3][0]) if nested else (apart[2], apart[4])
    for name in ("weight", "bias"):
        total = sum(getattr(twin, name).grad for twin in twins)
        torch.testing.assert_close(getattr(middle, name).grad, total, rtol=1e-12, atol=1e-14)
        for place in (0, -1):
            mine, theirs = (getattr(layers[place], name).grad for layers in (shared, apart))
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_a_users_own_activation_is_taken_and_a_mixing_one_is_not():
    class Bump(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    class Centred(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.dim = dim

        def forward(self, x):
            return torch.tanh(x - x.mean(self.dim, keepdim=True))

    ConvergentNetwork([nn.Linear(4, 5), Bump(), nn.Linear(5, 3)], torch.zeros(1, 4))
    mixing = (nn.Softmax(0), nn.Softmax(1), Centred(0), Centred(1), Centred((0, 1)))
    for wrong in (*mixing, nn.LayerNorm(5), nn.PReLU(), nn.Bilinear(5, 5, 5)):
        with pytest.raises(UnsupportedNetworkError, match=rf"layer 1 \({type(wrong).__name__}\)"):
            ConvergentNetwork([nn.Linear(4, 5), wrong, nn.Linear(5, 3)], torch.zeros(1, 4))


def test_batch_norm_without_weights_is_no_activation():
    norm = nn.BatchNorm1d(8, affine=False).eval()  # it treats each number by itself, until it is trained
    network = ConvergentNetwork([nn.Linear(4, 8), norm, nn.Tanh(), nn.Linear(8, 3)], torch.zeros(1, 4))
    assert [section.name for section in network.sections] == ["2"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(4, 3)], "no activation"),
        ([nn.Tanh(), nn.Tanh()], "no layer with weights"),
        ([nn.Conv2d(1, 2, 3, padding="same"), nn.Tanh()], r"layer 0 \(Conv2d\)"),
        ([nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Tanh()], r"layer 0 \(Conv2d\)"),
        ([nn.Linear(4, 3), nn.Tanh(), nn.Sequential(nn.GRU(3, 3))], r"layer 2.0 \(GRU\)"),
        ([nn.Linear(4, 3), nn.Tanh(), nn.Flatten(0)], r"layer 2 \(Flatten\)"),
        ([nn.MaxPool2d(2, return_indices=True), nn.Conv2d(1, 1, 1), nn.Tanh()], r"layer 0 \(MaxPool2d\)"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_cannot_settle_is_refused_by_name(layers, message):
    with pytest.raises(UnsupportedNetworkError, match=message):
        ConvergentNetwork(layers, torch.zeros(1, 4))


def test_batch_norm_between_states_has_no_feedback_of_its_own():
    layers = [nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh()]
    with pytest.raises(UnsupportedNetworkError, match=r"layer 4 \(BatchNorm1d\)"):
        AsymmetricNetwork(layers, torch.zeros(2, 4))


@pytest.mark.parametrize("option", [{"readout": "mean"}, {"order": "random"}])
def test_unknown_options_are_refused(option):
    with pytest.raises(UserError, match=next(iter(option))):
        ConvergentNetwork(perceptron(), torch.zeros(1, 4).double(), **option)


def test_hard_sigmoids_clip():
    x = torch.tensor([-1.0, 0.5, 1.5, 3.0])
    assert HardSigmoid()(x).tolist() == [0, 0.5, 1, 1]
    assert HardSigmoid(2.0)(x).tolist() == [0, 0.25, 0.75, 1]


def test_an_example_of_a_wrong_shape_is_told():
    with pytest.raises(UserError, match="cannot run on an example"):
        ConvergentNetwork(convolutional(), torch.zeros(1, 4).double())
