"""DRTP and tpSGD against their formulas, each other, and finite differences."""

import weakref

import pytest
import torch
from signal_networks import NETWORKS, back_propagated, gradients, make
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.signals.direct_feedback import DFA
from beyondprop.rules.signals.target_projection import DRTP, TPSGD

LOSSES = ["l2", "l1", "linear"]


def test_signals_are_those_of_the_closed_formula():
    """Frenkel et al.: delta_l = (B_l^T y*) f'(z_l), a mean over the batch; the last layer has the true derivative."""
    network, x, y = make("perceptron")
    rule = DRTP(network, example=x, classes=3)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    h2 = torch.relu(network[2](h1))
    target = F.one_hot(y, 3).float()
    delta1 = (target @ rule.feedback["0"]) * (1 - h1.square()) / len(x)
    delta2 = (target @ rule.feedback["2"]) * (h2 > 0) / len(x)
    delta3 = (torch.softmax(network[4](h2), dim=1) - target) / len(x)
    for layer, delta, before in ((network[0], delta1, x), (network[2], delta2, h1), (network[4], delta3, h2)):
        torch.testing.assert_close(layer.weight.grad, delta.T @ before)
        torch.testing.assert_close(layer.bias.grad, delta.sum(dim=0))


@pytest.mark.parametrize("name", NETWORKS)
def test_drtp_is_tpsgd_with_the_linear_loss(name):
    """With B = -P^T (derived from J = -<P y*, h>)."""
    network, x, y = make(name)
    network.eval()
    linear = TPSGD(network, example=x, classes=3, local_loss="linear")
    drtp = DRTP(network, example=x, classes=3)
    for key in drtp.feedback:
        drtp.feedback[key].copy_(-linear.feedback[key])
    linear.backward(x, y)
    expected = gradients(network)
    network.zero_grad()
    drtp.backward(x, y)
    for parameter, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[parameter], msg=parameter)


@pytest.mark.parametrize("local_loss", LOSSES)
def test_a_hidden_layer_descends_its_own_loss(local_loss):
    """Finite differences of the layer's loss, written out, with the activation before it held fixed."""
    network, x, y = make("perceptron")
    network, x = network.double(), x.double()
    rule = TPSGD(network, example=x, classes=3, local_loss=local_loss)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x)).detach()
    target = rule.feedback["2"][y]
    written = {
        "l2": lambda h: 0.5 * (target - h).square().sum() / len(x),
        "l1": lambda h: (target - h).abs().sum() / len(x),
        "linear": lambda h: -(target * h).sum() / len(x),
    }[local_loss]
    weight, step = network[2].weight.data, 1e-6
    for row, column in ((0, 1), (3, 4), (4, 0)):
        ends = []
        for change in (step, -2 * step):
            weight[row, column] += change
            ends.append(written(torch.relu(h1 @ weight.T + network[2].bias)))
        weight[row, column] += step
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(network[2].weight.grad[row, column], slope.detach(), rtol=1e-5, atol=1e-8)


def test_any_local_loss_of_activation_and_target():
    network, x, y = make("perceptron")
    halved = TPSGD(network, x, 3, local_loss=lambda h, t: 0.5 * (h - t).square().sum() / len(h))
    halved.backward(x, y)
    expected = gradients(network)
    network.zero_grad()
    named = TPSGD(network, x, 3, local_loss="l2")
    named.feedback = halved.feedback
    named.backward(x, y)
    assert halved.feedback["0"].abs().sum() > 0
    for parameter, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[parameter])


def test_targets_lie_where_the_activation_can_reach():
    kinds = {
        nn.Tanh(): (-0.9, 0.9),
        nn.Sigmoid(): (0.1, 0.9),
        nn.ReLU(): (0.0, 1.0),
        nn.ReLU6(inplace=True): (0.0, 1.0),
        nn.GELU(): (-1.0, 1.0),
        nn.Identity(): (-1.0, 1.0),
    }
    for kind, (low, high) in kinds.items():
        drawn = TPSGD(
            nn.Sequential(nn.Linear(2, 400), kind, nn.Linear(400, 3)), torch.zeros(2, 2), 3, target_scale=1
        ).feedback["0"]
        assert low <= drawn.min() < low + 0.02, kind
        assert high - 0.02 < drawn.max() <= high, kind
    network = nn.Sequential(nn.Linear(2, 400), nn.Tanh(), nn.Linear(400, 3))
    torch.manual_seed(3)
    near = TPSGD(network, torch.zeros(2, 2), 3, target_scale=1).feedback["0"]
    torch.manual_seed(3)
    assert torch.equal(TPSGD(network, torch.zeros(2, 2), 3).feedback["0"], 5 * near)


def test_collapses_the_activations_on_their_targets():
    """Minimising the l2 loss brings each class to its own target."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 3))
    rule = TPSGD(network, torch.zeros(1, 3), 3, target_scale=1)
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05)
    x, y = torch.eye(3), torch.arange(3)
    for _ in range(300):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    assert (torch.tanh(network[0](x)) - rule.feedback["0"]).abs().max() < 0.05


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", [DRTP, TPSGD])
def test_every_parameter_is_taught_and_the_last_layer_truly(name, kind):
    network, x, y = make(name)
    expected = back_propagated(network, x, y)
    kind(network, example=x, classes=3).backward(x, y)
    found = gradients(network)
    assert [n for n, g in found.items() if g is None] == []
    last = list(found)[-1].rpartition(".")[0]
    assert torch.equal(found[f"{last}.weight"], expected[f"{last}.weight"])


def test_points_are_those_of_direct_feedback():
    for name in NETWORKS:
        network, x, _ = make(name)
        drtp, dfa = DRTP(network, x, 3), DFA(network, x)
        assert {n: drtp.feedback[n].shape for n in drtp.feedback} == {n: dfa.feedback[n].shape for n in dfa.feedback}


def test_one_step_of_a_recurrent_network_is_a_delta_rule():
    """Every state has the target P y*, the state before it is a constant: dW = sum_t delta_t x_t^T, our reading."""
    network, x, y = make("rnn")
    rule = TPSGD(network, example=x, classes=3)
    rule.backward(x, y)
    cell, target, n = network.cell, rule.feedback["cell"][y], len(x)
    state = torch.zeros(n, 5)
    into, onto = torch.zeros_like(cell.weight_ih), torch.zeros_like(cell.weight_hh)
    with torch.no_grad():
        for step in x.unbind(dim=1):
            before, state = state, cell(step, state)
            delta = (state - target) * (1 - state.square()) / n
            into += delta.T @ step
            onto += delta.T @ before
    torch.testing.assert_close(cell.weight_ih.grad, into)
    torch.testing.assert_close(cell.weight_hh.grad, onto)


@pytest.mark.parametrize("kind", [DRTP, TPSGD])
def test_a_layers_graph_is_gone_when_the_next_is_computed(kind):
    """No update locking: what a layer needs for its gradient is freed at once."""
    alive = []

    class Watched(nn.Linear):
        def forward(self, x):
            alive.append(sum(reference() is not None for reference in kept))
            kept.append(weakref.ref(x))
            return super().forward(x)

    kept: list = []
    network = nn.Sequential(*(part for _ in range(6) for part in (Watched(4, 4), nn.Tanh())), nn.Linear(4, 3))
    rule = kind(network, torch.zeros(2, 4), 3)
    alive.clear()
    kept.clear()
    rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    assert max(alive[2:]) <= 2  # the batch itself and the one before; back-propagation keeps them all


def test_targets_may_be_probabilities_or_numbers():
    network, x, y = make("perceptron")
    rule = DRTP(network, x, 3)
    rule.backward(x, y)
    expected = gradients(network)
    network.zero_grad()
    rule.backward(x, F.one_hot(y, 3).float())
    for parameter, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[parameter])
    network.zero_grad()
    soft = torch.softmax(torch.randn(5, 3), dim=1)  # the mean of the classes' signals, by their probabilities
    rule.backward(x, soft)
    h1 = torch.tanh(network[0](x))
    delta = (soft @ rule.feedback["0"]) * (1 - h1.square()) / len(x)
    torch.testing.assert_close(network[0].weight.grad, delta.T @ x)
    regression = TPSGD(network, x, 3, nn.MSELoss())
    assert regression.backward(x, torch.randn(5, 3)).isfinite()
    with pytest.raises(UserError, match="targets must hold 3 numbers"):
        regression.backward(x, torch.randn(5, 2))


def test_unusable_settings_and_labels_are_refused(one_line):
    network, x, _ = make("perceptron")
    with one_line(UserError, "l2, l1, linear", "'huber'"):
        TPSGD(network, x, 3, local_loss="huber")
    with one_line(UserError, "target_scale must be positive"):
        TPSGD(network, x, 3, target_scale=0)
    with one_line(UserError, "at least 1"):
        DRTP(network, x, 0)
    rule = DRTP(network, x, 3)
    with one_line(UserError, "0..2, got 3"):
        rule.backward(x, torch.tensor([0, 1, 2, 3, 0]))
    assert all(p.grad is None for p in network.parameters())
    with one_line(UnsupportedNetworkError, "LSTMCell"):
        DRTP(nn.Sequential(nn.LSTM(3, 4)), torch.zeros(2, 4, 3), 3)


def test_an_activation_that_is_not_finite_names_its_layer():
    network, x, y = make("perceptron")
    with torch.no_grad():
        network[2].bias[1] = torch.inf
    with pytest.raises(NonFiniteError, match="layer 2"):
        DRTP(network, x, 3).backward(x, y)
    assert network[2].weight.grad is None


def test_large_finite_activations_are_no_error():
    """Their sum overflows, and they do not."""
    network = nn.Sequential(nn.Linear(2, 8), nn.Identity(), nn.Linear(8, 3))
    with torch.no_grad():
        network[0].weight.fill_(1e38)
        network[2].weight.zero_()
    rule = DRTP(network, torch.zeros(2, 2), 3)
    assert rule.backward(torch.ones(4, 2), torch.tensor([0, 1, 2, 0])).isfinite()


def test_labels_of_positions_teach_each_position():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(2, 5, 4), torch.randint(3, (2, 5))
    rule = DRTP(network, x, 3, lambda scores, y: F.cross_entropy(scores.flatten(0, 1), y.flatten()))
    assert rule.feedback["0"].shape == (3, 6)
    rule.backward(x, y)
    expected = gradients(network)
    network.zero_grad()
    flat = DRTP(network, x.flatten(0, 1), 3)
    flat.feedback["0"].copy_(rule.feedback["0"])
    flat.backward(x.flatten(0, 1), y.flatten())
    found = gradients(network)
    torch.testing.assert_close(found["2.weight"], expected["2.weight"])
    torch.testing.assert_close(found["0.weight"], expected["0.weight"])
    with pytest.raises(UserError, match="scores' shape"):
        rule.backward(x, y[:, 0])


def test_one_number_a_sample_is_a_target_too():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    rule = DRTP(network, torch.zeros(2, 4), 1, lambda out, y: F.mse_loss(out.flatten(), y))
    assert rule.backward(torch.randn(5, 4), torch.randn(5)).isfinite()


def test_labels_of_small_integer_types():
    network, x, y = make("perceptron")
    rule = DRTP(network, x, 3)
    rule.backward(x, y)
    expected = gradients(network)
    network.zero_grad()
    rule.backward(x, y.to(torch.uint8))
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(network).items())
