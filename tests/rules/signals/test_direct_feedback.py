"""Direct feedback alignment and its kin against the closed formula and brute force."""

import pytest
import torch
from signal_networks import NETWORKS, back_propagated, error_of, gradients, make
from torch import nn
from torch.nn import functional as F

from beyondprop.networks.sequences import step_cross_entropy
from beyondprop.rules.signals.direct import Direct
from beyondprop.rules.signals.direct_feedback import DFA, DirectKolenPollack, SignDFA
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment
from beyondprop.rules.signals.target_projection import DRTP, TPSGD


def test_signals_are_those_of_the_closed_formula():
    """Nøkland, eq. 8: delta_l = (B_l e) f'(z_l), grad W_l = delta_l h_{l-1}^T."""
    network, x, y = make("perceptron")
    rule = DFA(network, example=x)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    h2 = torch.relu(network[2](h1))
    e = error_of(network, x, y)
    delta1 = (e @ rule.feedback["0"]) * (1 - h1.square())
    delta2 = (e @ rule.feedback["2"]) * (h2 > 0)
    for layer, delta, before in ((network[0], delta1, x), (network[2], delta2, h1), (network[4], e, h2)):
        torch.testing.assert_close(layer.weight.grad, delta.T @ before)
        torch.testing.assert_close(layer.bias.grad, delta.sum(dim=0))


def test_sign_of_the_error_is_sent_and_averaged():
    network, x, y = make("perceptron")
    rule = SignDFA(network, example=x)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    delta1 = (error_of(network, x, y).sign() / len(x) @ rule.feedback["0"]) * (1 - h1.square())
    torch.testing.assert_close(network[0].weight.grad, delta1.T @ x)
    assert torch.equal(network[4].weight.grad, back_propagated(network, x, y)["4.weight"]) or torch.allclose(
        network[4].weight.grad, error_of(network, x, y).T @ torch.relu(network[2](h1))
    )


def brute_force(network, x, signal_of):
    """Signals by the definition: a separate differentiation for each hidden activation of a sequential network."""
    found = {}
    h = x
    layers = [
        m
        for m in network
        if any(True for _ in m.parameters()) and not isinstance(m, nn.PReLU | nn.BatchNorm2d | nn.GroupNorm)
    ]
    groups, group = [], []
    for module in network:
        if module in layers and group:
            groups.append(group)
            group = []
        group.append(module)
    for group in groups:
        h = h.detach()
        points = [i for i, m in enumerate(group) if type(m).__module__ == "torch.nn.modules.activation"]
        at = points[0] if points else len(group) - 1
        for m in group[: at + 1]:
            h = m(h)
        name = str(list(network).index(group[0]))
        parameters = [p for m in group[: at + 1] for p in m.parameters()]
        gradients = torch.autograd.grad(h, parameters, signal_of(name, h), retain_graph=True)
        found |= dict(zip(parameters, gradients, strict=True))
        for m in group[at + 1 :]:
            h = m(h)
    return found


def test_convolutions_norms_and_activations_in_place_by_brute_force():
    network, x, y = make("convolutional")
    network.eval()  # statistics fixed, so that the network can be evaluated again
    rule = DFA(network, example=x)
    rule.backward(x, y)
    e = error_of(network, x, y)
    expected = brute_force(network, x, lambda name, h: (e @ rule.feedback[name].flatten(1)).view_as(h))
    assert len(expected) == 12
    for parameter, gradient in expected.items():
        torch.testing.assert_close(parameter.grad, gradient)
    # Before the pooling, and behind the first activation: the paper's place (Frenkel et al., Section 3).
    assert {name: tuple(rule.feedback[name].shape[1:]) for name in rule.feedback} == {
        "0": (4, 4, 4),
        "3": (6, 4, 4),
        "6": (4, 3, 3),
        "9": (4, 3, 3),
    }


def test_residual_blocks_are_taught_at_the_point_behind_them_alone():
    """No signal passes on along the skip connection."""
    network, x, y = make("residual")
    network.eval()
    rule = DFA(network, example=x)
    rule.backward(x, y)
    e = error_of(network, x, y)
    h0 = network[0](x)
    entry = list(rule.feedback)
    assert entry == ["0", "1.first", "1.second", "2.first", "2.second"]
    (expected,) = torch.autograd.grad(h0, network[0].weight, e @ rule.feedback["0"])
    torch.testing.assert_close(network[0].weight.grad, expected)
    block, h = network[1], h0.detach()
    inner = torch.relu(block.norm(block.first(h)))
    g = torch.autograd.grad(inner, [block.first.weight, block.norm.weight], e @ rule.feedback["1.first"])
    torch.testing.assert_close((block.first.weight.grad, block.norm.weight.grad), g)
    after = F.relu(h + block.second(inner.detach()))
    (expected,) = torch.autograd.grad(after, block.second.weight, e @ rule.feedback["1.second"])
    torch.testing.assert_close(block.second.weight.grad, expected)


def test_query_key_and_value_share_a_point():
    network, x, y = make("own attention")
    rule = DFA(network, example=x)
    rule.backward(x, y)
    assert list(rule.feedback) == ["input of query", "value", "out"]
    e = error_of(network, x, y)
    h = network.norm(x).detach()
    attended = F.scaled_dot_product_attention(network.query(h), network.key(h), network.value(h))
    weights = [layer.weight for layer in (network.query, network.key, network.value)]
    signal = (e @ rule.feedback["value"].flatten(1)).view_as(attended)
    for weight, expected in zip(weights, torch.autograd.grad(attended, weights, signal), strict=True):
        torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_receives_a_signal_and_the_last_layer_the_true_one(name):
    network, x, y = make(name)
    expected = back_propagated(network, x, y)
    rule = DFA(network, example=x)
    rule.backward(x, y)
    found = gradients(network)
    assert [n for n, g in found.items() if g is None] == []
    last = list(found)[-1].rpartition(".")[0]
    for n in (f"{last}.weight", f"{last}.bias"):
        if n in found:
            torch.testing.assert_close(found[n], expected[n])


def test_cells_share_their_feedback_over_time_and_nothing_is_unrolled():
    network, x, y = make("rnn")
    rule = DFA(network, example=x)
    assert list(rule.feedback) == ["cell"]
    rule.backward(x, y)
    e, signals = error_of(network, x, y), {}
    state = None
    for step in x.unbind(dim=1):
        state = network.cell(step, state.detach() if state is not None else None)
        for p, g in zip(
            network.cell.parameters(),
            torch.autograd.grad(state, network.cell.parameters(), e @ rule.feedback["cell"], retain_graph=True),
            strict=True,
        ):
            signals[p] = signals.get(p, 0) + g
    for parameter, expected in signals.items():
        torch.testing.assert_close(parameter.grad, expected)


def test_outputs_that_are_computed_from_one_another_count_once():
    """An LSTM cell makes its state from its memory: the state's signal reaches the memory inside the cell alone."""
    network, x, y = make("lstm")
    rule = DFA(network, example=x)
    rule.backward(x, y)
    e, signals = error_of(network, x, y), {}
    state = None
    for step in x.unbind(dim=1):
        state = network.cell(step, None if state is None else tuple(part.detach() for part in state))
        found = torch.autograd.grad(state[0], network.cell.parameters(), e @ rule.feedback["cell"])
        signals = {p: signals.get(p, 0) + g for p, g in zip(network.cell.parameters(), found, strict=True)}
    for parameter, expected in signals.items():
        torch.testing.assert_close(parameter.grad, expected)


class Remembering(nn.Module):
    """A cell whose state, whose memory and whose input are read together."""

    def __init__(self):
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(4, 3), nn.LSTMCell(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        entered = self.first(x)
        state, memory = self.cell(entered)
        return self.last(state + memory + entered)


def test_outputs_of_a_layer_that_meet_at_a_point_are_told_apart():
    """What arrives at the memory by the state is the cell's own doing, and no signal of the point's."""
    network, x, y = Remembering().double(), torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1])
    rule = DFA(network, example=x)
    rule.backward(x, y)
    state, memory = network.cell(network.first(x).detach())
    signal = error_of(network, x, y) @ rule.feedback["cell"]
    expected = torch.autograd.grad([state, memory], list(network.cell.parameters()), [signal, signal])
    torch.testing.assert_close([p.grad for p in network.cell.parameters()], list(expected))


def test_taught_autograds_signals_it_is_back_propagation_to_the_bit():
    """The mechanism alone: each point receives what back-propagation would bring there."""
    network, x, y = make("perceptron")
    expected = back_propagated(network, x, y)
    h1 = torch.tanh(network[0](x))
    h2 = torch.relu(network[2](h1))
    signals = torch.autograd.grad(F.cross_entropy(network[4](h2), y), (h1, h2))
    points = []
    with Direct(network, x).watch(points.append) as watch:
        loss = F.cross_entropy(network(x), y)
        watch.claim(loss).teach(torch.ones(()))
        for point, signal in zip(points, signals, strict=True):
            point.teach(signal)
    for parameter, gradient in gradients(network).items():
        assert torch.equal(gradient, expected[parameter]), parameter


def test_signs_of_a_position_are_averaged_over_all_positions():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(2, 7, 4)
    rule = SignDFA(network, x, lambda scores, y: F.cross_entropy(scores.flatten(0, 1), y.flatten()))
    sent = rule.signal_from(torch.randn(2, 7, 3))
    torch.testing.assert_close(sent.abs(), torch.full((2, 7, 3), 1 / 14))


def test_learned_feedback_is_that_of_a_weight_straight_to_the_scores():
    network, x, y = make("perceptron")
    rule = DirectKolenPollack(network, example=x)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    straight = torch.zeros(6, 3, requires_grad=True)
    F.cross_entropy(network(x) + h1.detach() @ straight, y).backward()  # a connection past the layers, at zero
    torch.testing.assert_close(rule.feedback["0"].grad, straight.grad.T)
    assert [group["name"] for group in rule.parameter_groups()] == ["network", "feedback"]


def test_scores_a_position_teach_each_position():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.into(x)))

    torch.manual_seed(0)
    network = Tagger()
    x, y = torch.randn(2, 5, 4), torch.randint(3, (2, 5))
    for kind in (DFA, DirectKolenPollack):
        rule = kind(network, x, lambda scores, y: F.cross_entropy(scores.flatten(0, 1), y.flatten()))
        assert rule.feedback["into"].shape == (3, 6)
        network.zero_grad()
        rule.backward(x, y)
        flat = DFA(network, x.flatten(0, 1))
        flat.feedback = rule.feedback
        found = network.into.weight.grad.clone()
        network.zero_grad()
        flat.backward(x.flatten(0, 1), y.flatten())
        torch.testing.assert_close(found, network.into.weight.grad)
        rule.backward(x[:1, :3], y[:1, :3])  # sequences of another length are as good
    h = torch.tanh(network.into(x)).flatten(0, 1)
    scores = network.head(h)
    e = (torch.softmax(scores, dim=1) - F.one_hot(y.flatten(), 3)) / 10
    rule.zero_grad()
    rule.backward(x, y)
    torch.testing.assert_close(rule.feedback["into"].grad, e.T @ h)


class Scaled(nn.Module):
    """A loss that learns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, scores, y):
        return F.cross_entropy(self.scale * scores, y)


@pytest.mark.parametrize("kind", [FeedbackAlignment, DFA, DRTP, TPSGD])
def test_a_loss_with_parameters_learns_as_under_back_propagation(kind):
    network, x, y = make("perceptron")
    loss = Scaled()
    expected = torch.autograd.grad(loss(network(x), y), loss.scale)[0]
    kind.for_classifier(network, x, 3, loss=loss).backward(x, y)
    torch.testing.assert_close(loss.scale.grad, expected)


def test_learned_feedback_of_every_step_takes_features_of_any_shape():
    """Scores (batch, time, classes), and activations (batch, time, rows, columns)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(2, (2, 3)), nn.Tanh(), nn.Flatten(2), nn.Linear(6, 3))
    x, y = torch.randn(5, 7, 4), torch.randint(3, (5, 7))
    rule = DirectKolenPollack(network, x[:1], step_cross_entropy)
    rule.backward(x, y)
    scores = network(x).detach().requires_grad_()
    error = torch.autograd.grad(step_cross_entropy(scores, y), scores)[0]
    (name,) = rule.feedback
    h = network[:3](x)
    expected = torch.einsum("btc,btij->cij", error, h).view_as(rule.feedback[name])
    torch.testing.assert_close(rule.feedback[name].grad, expected)
