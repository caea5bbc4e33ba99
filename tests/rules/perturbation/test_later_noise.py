"""What later noise does is taken off: single samples against the gradient, and the mean against plain regression."""

import pytest
import torch
from torch import nn

from beyondprop.errors import UserError
from beyondprop.networks.recurrent import VanillaRNN
from beyondprop.rules.perturbation import later_noise
from beyondprop.rules.perturbation.later_noise import NoisyCall, regression, signals_in_turn
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation

SQUARES = nn.MSELoss(reduction="none")
EXACT = {"whiten": True, "explain": True, "sigma": 1e-7}


@pytest.fixture(autouse=True)
def _hardly_a_ridge(monkeypatch):
    monkeypatch.setattr(later_noise, "RIDGE", 1e-9)


def through_time(network, x, y):
    """The gradient, by autograd, which the rule never asks."""
    network.zero_grad()
    SQUARES(network(x), y).mean().backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    return found


def close(network, expected):
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_few_samples_are_the_gradient_through_time(antithetic):
    torch.manual_seed(0)
    network = VanillaRNN(2, 4, 3, bias=True).double()
    x, y = torch.randn(5, 6, 2).double(), torch.randn(5, 6, 3).double()
    expected = through_time(network, x, y)
    rule = NodePerturbation(network, SQUARES, samples=10, antithetic=antithetic, **EXACT)
    rule.backward(x, y)
    close(network, expected)


def test_a_few_samples_are_the_gradient_of_a_perceptron():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    expected = through_time(network, x, y)
    NodePerturbation(network, SQUARES, samples=10, **EXACT).backward(x, y)
    close(network, expected)


def test_credit_of_the_own_step_is_the_gradient_truncated_to_one_step():
    torch.manual_seed(0)
    network = VanillaRNN(2, 4, 3).double()
    x, y = torch.randn(5, 6, 2).double(), torch.randn(5, 6, 3).double()
    state, losses = torch.zeros(5, 4).double(), []
    for u, target in zip(x.unbind(1), y.unbind(1), strict=True):
        state = network.advance(u, state.detach())
        losses.append(SQUARES(network.readout(state), target).mean())
    torch.stack(losses).mean().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    NodePerturbation(network, SQUARES, samples=10, credit="step", **EXACT).backward(x, y)
    close(network, expected)


def test_the_effect_of_noise_is_predicted_without_its_own_sample():
    torch.manual_seed(1)
    call = NoisyCall(torch.randn(9, 2, 3).double(), torch.randn(9, 2, 3).double())
    target = torch.randn(9, 2).double()
    signal, explained = regression(target, call)
    for example in range(2):
        along, noise = call.differences[:, example], call.noise[:, example]
        expected = torch.linalg.lstsq(along, target[:, example, None]).solution[:, 0]
        torch.testing.assert_close(signal[example], expected, rtol=1e-6, atol=1e-7)
        for s in range(9):
            rest = [other for other in range(9) if other != s]
            without = torch.linalg.lstsq(along[rest], target[rest, example, None]).solution[:, 0]
            torch.testing.assert_close(explained[s, example], without @ noise[s], rtol=1e-5, atol=1e-6)


def test_taking_off_leaves_the_mean_as_it_is():
    """Where the loss is not seen through the later call alone: δL = d·Δ1 + b·Δ2 with Δ2 = ξ2 + J Δ1."""
    torch.manual_seed(0)
    samples, draws = 9, 20_000
    d, b, J = torch.tensor([1.0, -2.0]).double(), torch.tensor([3.0, 1.0]).double(), torch.randn(2, 2).double()
    first, second = torch.randn(2, samples, draws, 2).double().unbind()
    moved = second + first @ J.T
    change = first @ d + moved @ b
    calls = [NoisyCall(first, first), NoisyCall(moved, second)]
    errors = []
    for signal in (signals_in_turn(calls, change, future=True)[0], regression(change, calls[0])[0]):
        errors.append(signal.std(dim=0) / draws**0.5)
        assert ((signal.mean(dim=0) - d - J.T @ b).abs() < 4.5 * errors[-1]).all()
    assert errors[0].norm() < 0.6 * errors[1].norm()


def test_layers_with_too_few_samples_are_whitened_and_explain_nothing():
    torch.manual_seed(0)
    network = VanillaRNN(2, 8, 2).double()
    x, y = torch.randn(4, 3, 2).double(), torch.randn(4, 3, 2).double()
    expected, found = through_time(network, x, y), []
    for explain in (True, False):
        network.zero_grad()
        torch.manual_seed(3)
        NodePerturbation(network, SQUARES, samples=7, whiten=True, explain=explain, sigma=1e-7).backward(x, y)
        found.append({name: p.grad.clone() for name, p in network.named_parameters()})
    assert torch.equal(found[0]["cell.state_weight"], found[1]["cell.state_weight"])
    torch.testing.assert_close(found[0]["readout.weight"], expected["readout.weight"], rtol=1e-3, atol=1e-5)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UserError, match="kind='activity'"):
        NodePerturbation(nn.Linear(2, 2), whiten=True, kind="node")
    with pytest.raises(UserError, match="decorrelate=True"):
        NodePerturbation(nn.Linear(2, 2), decorrelation=0.1)
    with pytest.raises(UserError, match="give whiten=True"):
        NodePerturbation(nn.Linear(2, 2), explain=True)
    with pytest.raises(UserError, match="give whiten=True"):
        NodePerturbation(nn.Linear(2, 2), kind="node", whiten=True, explain=True)
    rule = NodePerturbation(nn.Linear(2, 2), nn.MSELoss(), samples=9, whiten=True, explain=True)
    with pytest.raises(UserError, match="the loss of each example"):
        rule.backward(torch.randn(3, 2), torch.randn(3, 2))
