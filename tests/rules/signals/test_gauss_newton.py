"""Gauss-Newton targets against pseudo-inverses of Jacobians that are found number by number, in float64."""

import copy
import itertools

import pytest
import torch
from signal_networks import NETWORKS, Recurrent, back_propagated, gradients, make
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.gauss_newton import GaussNewtonTargets, gauss_newton_step


def double_perceptron(*sizes, bias=True, seed=0):
    torch.manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def batch(count, *size, classes=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *size, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (count,), generator=generator)


def finite_jacobian(function, at, step=1e-6):
    """One column after another, by central differences; `function` maps (n,) to (m,)."""
    columns = []
    for n in range(at.numel()):
        move = torch.zeros_like(at).flatten()
        move[n] = step
        move = move.view_as(at)
        with torch.no_grad():
            columns.append((function(at + move) - function(at - move)).flatten() / (2 * step))
    return torch.stack(columns, dim=1)


def solved(jacobian, error, damping):
    """By the other normal equations, of the size of the activation, or torch's own pseudo-inverse."""
    if damping == 0:
        return torch.linalg.pinv(jacobian, rtol=1e-7) @ error
    inner = jacobian.T @ jacobian + damping * torch.eye(jacobian.shape[1], dtype=jacobian.dtype)
    return torch.linalg.inv(inner) @ jacobian.T @ error


def by_the_book(blocks, x, y, damping):
    """Gradients of a chain of blocks, sample by sample; the last block is taught by the loss.

    Each block's gradient is that of half the squared distance of its activation to its target.
    """
    network = nn.Sequential(*blocks)
    scores = network(x).detach()
    errors = (torch.softmax(scores, dim=1) - F.one_hot(y, scores.shape[1])) / len(x)
    network.zero_grad()
    for sample, error in zip(x, errors, strict=True):
        before = sample.unsqueeze(0)
        for number, block in enumerate(blocks):
            value = block(before)
            if number + 1 < len(blocks):
                rest = nn.Sequential(*blocks[number + 1 :])
                step = solved(finite_jacobian(rest, value.detach()), error, damping)
                target = value.detach() - step.view_as(value)
            else:
                target = value.detach() - error
            (0.5 * (value - target).square().sum()).backward()
            before = value.detach()
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    return list(found.values())


class Skipping(nn.Module):
    """A block with a connection past its convolution, ending at its activation."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.act = nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh()

    def forward(self, x):
        return self.act(x + self.conv(x))


def chain(name):
    torch.manual_seed(3)
    images = (2, 6, 6)
    if name == "perceptron":
        first, second = nn.Sequential(nn.Linear(5, 7), nn.Tanh()), nn.Sequential(nn.Linear(7, 6), nn.Tanh())
        return [first, second, nn.Linear(6, 3)], (5,)
    if name == "narrow":  # fewer units than scores: the output cannot be moved at will
        first, second = nn.Sequential(nn.Linear(5, 2), nn.Tanh()), nn.Sequential(nn.Linear(2, 4), nn.Sigmoid())
        return [first, second, nn.Linear(4, 3)], (5,)
    first = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh())
    if name == "convolutional":
        second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.Tanh())
        return [first, second, nn.Sequential(nn.Flatten(), nn.Linear(4, 3))], images
    head = nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(12, 3))
    return [first, Skipping(3), Skipping(3), head], images


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("name", ["perceptron", "narrow", "convolutional", "residual"])
def test_updates_are_those_of_pseudo_inverses_sample_by_sample(name, damping):
    blocks, size = chain(name)
    blocks = [block.double() for block in blocks]
    x, y = batch(4, *size)
    expected = by_the_book(blocks, x, y, damping)
    network = nn.Sequential(*blocks)
    GaussNewtonTargets(network, x, damping=damping).backward(x, y)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


EXACT = ("perceptron", "convolutional", "residual", "branching", "shared", "own layer", "rnn", "gru")


@pytest.mark.parametrize("name", EXACT)
def test_large_damping_tends_to_back_propagation(name):
    """That is, lambda u = J^T e - J^T J J^T e / lambda + ...: the distance to the gradient falls as 1 / lambda."""
    network, x, y = make(name)
    network.double().eval()
    x = x.double()
    expected = back_propagated(network, x, y)
    rule = GaussNewtonTargets(network, x).eval()
    distances = []
    for damping in (1e4, 1e5):
        rule.damping = damping
        rule.zero_grad()
        rule.backward(x, y)
        found = gradients(network)
        last = list(found)[-2:]  # the last layer has the gradient itself
        scaled = {key: value if key in last else damping * value for key, value in found.items()}
        distances.append(sum(float((scaled[key] - expected[key]).square().sum()) for key in found) ** 0.5)
    whole = sum(float(value.square().sum()) for value in expected.values()) ** 0.5
    assert 0 < distances[0] < 0.02 * whole
    assert distances[1] == pytest.approx(distances[0] / 10, rel=0.05)


@pytest.mark.parametrize("damping", [0.0, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("error")
def test_every_network_that_can_be_taught_directly_is_trained(name, damping):
    network, x, y = make(name)
    network.eval()  # statistics stay
    rule = GaussNewtonTargets(network, x, damping=damping).eval()
    rule.backward(x, y)
    once = gradients(network)
    rule.backward(x, y)
    for key, value in gradients(network).items():
        assert value.isfinite().all()
        torch.testing.assert_close(value, 2 * once[key])


def test_the_last_layer_has_the_true_derivative():
    network, x, y = make("perceptron")
    expected = back_propagated(network, x, y)
    GaussNewtonTargets(network, x, damping=0.1).backward(x, y)
    torch.testing.assert_close(network[4].weight.grad, expected["4.weight"])
    torch.testing.assert_close(network[4].bias.grad, expected["4.bias"])


def test_invertible_layers_have_the_inverses_of_their_chain():
    """Square linear layers: u_i = (W_L ... W_{i+1})^{-1} e, the target of target propagation with exact inverses."""
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3))).double()
    x, y = batch(6, 3)
    e = (torch.softmax(network(x), dim=1) - F.one_hot(y, 3)).detach() / 6
    GaussNewtonTargets(network, x).backward(x, y)
    u2 = torch.linalg.solve(network[2].weight, e.T).T
    u1 = torch.linalg.solve(network[1].weight, u2.T).T
    h1 = network[0](x)
    torch.testing.assert_close(network[0].weight.grad, u1.T @ x)
    torch.testing.assert_close(network[1].weight.grad, u2.T @ h1)
    torch.testing.assert_close(network[1].bias.grad, u2.sum(dim=0))


def test_each_layers_step_moves_the_output_of_a_linear_network_straight_down_its_loss():
    """The output-space toy: a move of one layer by the rule takes the output along -dL/dh_L; by the gradient not."""
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Linear(4, n, bias=False) for n in (4, 4, 2))).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    y = torch.randn(1, 2, dtype=torch.float64)
    error = 2 * (network(x) - y).detach() / 2
    for rule, straight in (
        (GaussNewtonTargets(network, x, nn.MSELoss()), True),
        (Backprop(network, nn.MSELoss()), False),
    ):
        rule.zero_grad()
        rule.backward(x, y)
        before = network(x).detach()
        for layer in network[:2]:
            with torch.no_grad():
                layer.weight -= 1e-3 * layer.weight.grad
                move = network(x) - before
                layer.weight += 1e-3 * layer.weight.grad
            cosine = F.cosine_similarity(move, -error).item()
            assert (cosine > 1 - 1e-9) == straight
            assert cosine > 0


def test_step_is_the_shortest_that_moves_the_output_by_the_error():
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(8, 3, 7, generator=generator, dtype=torch.float64)
    e = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    step = gauss_newton_step(jacobian, e, 0.0)
    torch.testing.assert_close((jacobian @ step.unsqueeze(-1)).squeeze(-1), e)
    aside = torch.linalg.svd(jacobian).Vh[:, 3:]  # moves that leave the output where it is
    assert (aside @ step.unsqueeze(-1)).abs().max() < 1e-12


def test_step_comes_closest_where_the_output_cannot_be_moved_so():
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(8, 5, 2, generator=generator, dtype=torch.float64)
    e = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    step = gauss_newton_step(jacobian, e, 0.0)
    left = e - (jacobian @ step.unsqueeze(-1)).squeeze(-1)
    assert (jacobian.mT @ left.unsqueeze(-1)).abs().max() < 1e-12  # the normal equations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_that_only_rounding_gives_are_left_out(dtype):
    """A Jacobian of rank 1 whose second row is the first's multiple, up to rounding."""
    row = torch.tensor([[0.1, 0.7, 0.3]], dtype=dtype)
    jacobian = torch.cat([row, row * 3.3, torch.zeros_like(row)]).unsqueeze(0)
    e = torch.tensor([[1.0, -1.0, 2.0]], dtype=dtype)
    expected = torch.linalg.pinv(jacobian[0].double(), rtol=1e-6) @ e[0].double()
    torch.testing.assert_close(gauss_newton_step(jacobian, e, 0.0)[0].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(gauss_newton_step(torch.zeros_like(jacobian), e, 0.0), torch.zeros(1, 3, dtype=dtype))


def test_a_cell_of_all_steps_is_taught_at_each_with_the_state_before_held_constant():
    torch.manual_seed(0)
    network = Recurrent().double()
    x, y = batch(3, 4, 3)
    cell, states = network.cell, [torch.zeros(3, 5, dtype=torch.float64)]
    for t in range(4):
        states.append(cell(x[:, t], states[-1]).detach())
    e = (torch.softmax(network.head(states[-1]), dim=1) - F.one_hot(y, 3)).detach() / 3
    expected = torch.zeros_like(cell.weight_hh)
    for n in range(3):
        jacobian = network.head.weight.detach()
        for t in range(4, 0, -1):
            u = torch.linalg.pinv(jacobian) @ e[n]
            delta = u * (1 - states[t][n].square())
            expected += torch.outer(delta, states[t - 1][n])
            jacobian = jacobian @ torch.diag(1 - states[t][n].square()) @ cell.weight_hh.detach()
    GaussNewtonTargets(network, x).backward(x, y)
    torch.testing.assert_close(cell.weight_hh.grad, expected)


def test_loss_and_its_own_parameters_are_the_users():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, scores, y):
            return (self.scale * scores - y).square().sum()

    network, loss = double_perceptron(5, 4, 3), Scaled()
    x, _ = batch(4, 5)
    y = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rule = GaussNewtonTargets(network, x, loss)
    rule.backward(x, y)
    scores = network(x).detach()
    torch.testing.assert_close(loss.scale.grad, (2 * (2 * scores - y) * scores).sum())
    e = 2 * 2 * (2 * scores - y)
    u = e @ torch.linalg.pinv(network[2].weight).T
    torch.testing.assert_close(network[0].bias.grad, (u * (1 - network[1](network[0](x)).square())).sum(dim=0))


def test_frozen_layers_stay_and_the_others_learn_as_before():
    network, x, y = make("perceptron")
    whole = copy.deepcopy(network)
    GaussNewtonTargets(whole, x).backward(x, y)
    network[2].requires_grad_(False)
    GaussNewtonTargets(network, x).backward(x, y)
    assert network[2].weight.grad is None
    torch.testing.assert_close(network[0].weight.grad, whole[0].weight.grad)


@pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
def test_a_damping_that_is_none_is_refused(damping):
    with pytest.raises(UserError, match="damping"):
        GaussNewtonTargets(nn.Linear(3, 2), torch.zeros(1, 3), damping=damping)


@pytest.mark.parametrize("damping", [1e-300, 1e-20, 1e-14])
def test_damping_below_the_rounding_error_of_a_singular_system_gives_the_pseudo_inverse(damping):
    torch.manual_seed(0)
    jacobian = torch.randn(40, 6, 2, dtype=torch.float64) @ torch.randn(40, 2, 9, dtype=torch.float64)
    error = (jacobian @ torch.randn(40, 9, 1, dtype=torch.float64)).squeeze(-1)
    expected = (torch.linalg.pinv(jacobian, rtol=1e-9) @ error.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(gauss_newton_step(jacobian, error, damping), expected, rtol=1e-6, atol=1e-6)
