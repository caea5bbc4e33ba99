"""Node, weight and activity perturbation: the gradient exactly over all noise, and on average over much of it."""

import itertools
import math

import pytest
import torch
from perturbed_sequences import SQUARES, gradients, sequences, vanilla
from torch import nn

from beyondprop.networks.recurrent import GatedRNN
from beyondprop.rules.perturbation import node_perturbation
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation


def finite_differences(network, loss, x, y, step=1e-5):
    """The gradient of the mean loss, each number of each parameter moved by itself."""
    found = {}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            found[name] = torch.zeros_like(parameter)
            for place in range(parameter.numel()):
                values = []
                for sign in (1, -1):
                    parameter.view(-1)[place] += sign * step
                    values.append(loss(network(x), y).mean())
                    parameter.view(-1)[place] -= sign * step
                found[name].view(-1)[place] = (values[0] - values[1]) / (2 * step)
    return found


def all_signs(monkeypatch, numbers):
    """Let the samples of a step be all patterns of ±1 over its noise, so that their mean is the expectation."""
    table = torch.tensor(list(itertools.product((1.0, -1.0), repeat=numbers)), dtype=torch.float64)
    place = [0]

    def draw(shape, like, *, signs):
        assert signs
        size = torch.Size(shape[1:]).numel()
        columns = table[:, place[0] : place[0] + size]
        place[0] += size
        return columns.reshape(shape).to(like)

    monkeypatch.setattr(node_perturbation, "draw", draw)
    return {"samples": len(table), "noise": "signs"}


NODES = 3 * (2 + 1)  # of the network, one sequence of three steps


def test_nodes_over_all_noise_are_the_gradient(monkeypatch):
    network, (x, y) = vanilla(), sequences(batch=1)
    rule = NodePerturbation(network, SQUARES, kind="node", sigma=1e-3, **all_signs(monkeypatch, NODES))
    rule.backward(x, y)
    expected = finite_differences(network, SQUARES, x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_weights_over_all_noise_are_the_gradient(monkeypatch):
    network, (x, y) = vanilla(), sequences()
    count = sum(p.numel() for p in network.parameters())
    rule = NodePerturbation(network, SQUARES, kind="weight", sigma=1e-3, **all_signs(monkeypatch, count))
    rule.backward(x, y)
    expected = finite_differences(network, SQUARES, x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_bias_is_of_second_order_in_sigma(monkeypatch):
    """The gradient is that of the smoothed loss: halving σ quarters the distance."""
    network, (x, y) = vanilla(), sequences(batch=1)
    expected = finite_differences(network, SQUARES, x, y)["cell.state_weight"]
    distances = []
    for sigma in (0.1, 0.05):
        network.zero_grad()
        rule = NodePerturbation(network, SQUARES, kind="node", sigma=sigma, **all_signs(monkeypatch, NODES))
        rule.backward(x, y)
        distances.append(float((gradients(rule)["cell.state_weight"] - expected).norm()))
    assert math.log2(distances[0] / distances[1]) == pytest.approx(2, abs=0.1)


def test_whitened_activities_over_all_noise_are_the_gradient(monkeypatch):
    """Of one sequence: the covariance that whitening divides by is that of ANP's own bias."""
    monkeypatch.setattr(node_perturbation, "RIDGE", 1e-9)
    network, (x, y) = vanilla(), sequences(batch=1)
    rule = NodePerturbation(network, SQUARES, sigma=1e-3, whiten=True, **all_signs(monkeypatch, NODES))
    rule.backward(x, y)
    expected = finite_differences(network, SQUARES, x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_activities_turn_each_nodes_gradient_by_less_than_a_right_angle(monkeypatch):
    """ANP's own property: E g_t = C ∂L/∂h_t, where C = E[Δ Δᵀ] / ⟨Δ²⟩ is positive, of mean eigenvalue 1."""
    network, (x, y) = vanilla(), sequences(batch=1)
    found = []
    monkeypatch.setattr(node_perturbation, "teach", lambda layer, calls: found.append((layer, calls)))
    rule = NodePerturbation(network, SQUARES, sigma=1e-4, **all_signs(monkeypatch, NODES))
    rule.backward(x, y)
    signals = next(calls for layer, calls in found if layer is network.cell)[0][1]
    # ∂L/∂h_t, and how h_t answers to earlier noise, by autograd, which the rule never asks.
    state, h = x.new_zeros(1, 2), []
    for u in x.unbind(1):
        h.append((network.cell(u, state)).detach().requires_grad_())
        state = torch.tanh(h[-1])
    jacobians = [
        torch.autograd.functional.jacobian(lambda a, t=t: network.cell(x[:, t], torch.tanh(a))[0], h[t - 1])[:, 0]
        for t in (1, 2)
    ]

    def tail(t, a):
        total, state = network.readout(torch.tanh(a)).sub(y[:, t]).square().sum(), torch.tanh(a)
        for later in range(t + 1, 3):
            state = torch.tanh(network.cell(x[:, later], state))
            total = total + network.readout(state).sub(y[:, later]).square().sum()
        return total / 3

    patterns = torch.tensor(list(itertools.product((1.0, -1.0), repeat=6)), dtype=torch.float64).view(-1, 3, 2)
    moved = patterns[:, 0]
    for t in range(3):
        if t > 0:
            moved = moved @ jacobians[t - 1].T + patterns[:, t]
        C = (moved[:, :, None] * moved[:, None]).mean(dim=0) / moved.square().mean()
        eigenvalues = torch.linalg.eigvalsh(C)
        assert eigenvalues.min() > 0
        assert float(eigenvalues.mean()) == pytest.approx(1)
        gradient = torch.autograd.grad(tail(t, h[t]), h[t])[0][0]
        torch.testing.assert_close(signals[t], C @ gradient, rtol=2e-3, atol=1e-5)
        assert signals[t] @ gradient > 0


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("kind", ["node", "weight"])
@pytest.mark.parametrize("network", [vanilla(3), GatedRNN(2, 3, 1).double()], ids=["vanilla", "gru"])
def test_unbiased_within_a_confidence_bound(network, kind, antithetic):
    x, y = sequences(time=4)
    expected = torch.cat([v.flatten() for v in finite_differences(network, SQUARES, x, y).values()])
    torch.manual_seed(3)
    drawn = []
    for _ in range(60):
        rule = NodePerturbation(network, SQUARES, kind=kind, sigma=1e-3, samples=100, antithetic=antithetic)
        network.zero_grad()
        rule.backward(x, y)
        drawn.append(torch.cat([gradient.flatten() for gradient in gradients(rule).values()]))
    means, errors = torch.stack(drawn).mean(dim=0), torch.stack(drawn).std(dim=0) / 60**0.5
    assert ((means - expected).abs() < 4.5 * errors + 1e-5).all()
    assert errors.max() < 0.5 * expected.abs().max()  # so that the bound says something


class Bypassed(nn.Module):
    """L = h2 - 3 h1 with h1 = x and h2 = h1: what noise in h1 does goes around h2 as well."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.second.weight)

    def forward(self, x):
        h = self.first(x)
        return self.second(h) - 3 * h


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"kind": "node"}, 1.0), ({"kind": "activity"}, -0.5), ({"kind": "activity", "whiten": True}, -0.5)],
)
def test_paths_around_a_layer_mislead_activity_differences_and_not_nodes(options, expected):
    """E[δL Δ] / E[Δ²] with Δ = ξ2 + ξ1 and δL = ξ2 - 2 ξ1, as the docs say; nodes give the gradient."""
    torch.manual_seed(0)
    network = Bypassed().double()
    rule = NodePerturbation(network, lambda z, _: z.squeeze(1), samples=2000, sigma=1e-3, noise="signs", **options)
    x = torch.ones(4, 1).double()
    rule.backward(x, x)
    assert network.second.weight.grad.item() == pytest.approx(expected, abs=0.15)


def test_credit_of_the_own_step_is_the_gradient_truncated_to_one_step(monkeypatch):
    """What the authors' code learns by, however noise goes on: no credit for what a state does later."""
    network, (x, y) = vanilla(), sequences(batch=1)
    options = all_signs(monkeypatch, NODES)
    rule = NodePerturbation(network, SQUARES, kind="node", sigma=1e-3, credit="step", **options)
    rule.backward(x, y)
    found = gradients(rule)
    network.zero_grad()
    state, losses = x.new_zeros(1, 2), []
    for t, u in enumerate(x.unbind(1)):
        state = network.advance(u, state.detach())
        losses.append((network.readout(state) - y[:, t]).square().mean())
    torch.stack(losses).mean().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["activity", "node", "weight"])
@pytest.mark.parametrize("scalar", [False, True])
def test_any_feed_forward_network(kind, scalar):
    """On average the gradient, of the first layer as of the last, also where the loss is one number for the batch."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 2, 2]), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    x, y = torch.randn(4, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    loss = nn.CrossEntropyLoss() if scalar else None
    nn.CrossEntropyLoss()(network(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in network.parameters()])
    network.zero_grad()
    NodePerturbation(network, loss, kind=kind, sigma=1e-3, samples=20_000, noise="signs").backward(x, y)
    found = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert torch.cosine_similarity(found, expected, dim=0) > (0.9 if kind == "activity" else 0.97)
    assert found.norm() / expected.norm() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("in_time", [False, True])
def test_where_batch_norm_mixes_examples_the_estimate_is_the_gradient_on_average(in_time):
    """Noise of one example reaches the losses of all; with the losses of each alone the estimate would be biased."""
    torch.manual_seed(0)
    if in_time:
        network = vanilla(3)
        network.decorrelate = nn.BatchNorm1d(3).double()
        (x, y), loss = sequences(5, 2), SQUARES
    else:
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
        x, y, loss = torch.randn(6, 3).double(), torch.arange(6) % 2, None
    rule = NodePerturbation(network, loss, kind="node", sigma=1e-4, samples=20_000, noise="signs", antithetic=True)
    rule.backward(x, y)
    found = torch.cat([p.grad.flatten() for p in network.parameters()])
    network.zero_grad()
    (nn.CrossEntropyLoss() if loss is None else nn.MSELoss())(network(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert (found - expected).norm() < 0.15 * expected.norm()  # otherwise 0.25 and more
