"""ProxProp: the proximal problem minimised by other means, the identity with BPC, conjugate gradients."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from beyondprop import BPC, Backprop, ProxProp
from beyondprop.errors import UserError


def networks():
    torch.manual_seed(0)
    perceptron = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    convolutional = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    return {
        "perceptron": (perceptron, torch.randn(8, 10, dtype=torch.float64)),
        "convolutional": (convolutional, torch.randn(8, 2, 5, 5, dtype=torch.float64)),
    }


NETWORKS = networks()
Y = torch.arange(8) % 3
each_network = pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS.keys())


def gradients(kind, network, x, y=Y, **options):
    rule = kind(copy.deepcopy(network), **options)
    rule.backward(x, y)
    return [p.grad for p in rule.parameters()]


@each_network
def test_the_step_minimises_the_proximal_problem(case):
    """Each layer by itself, by L-BFGS on 1/2 |layer(a) - (z - dL/dz)|^2 + 1/(2 tau) |theta - theta_k|^2."""
    network, x = case
    tau = 0.4
    rule = ProxProp(copy.deepcopy(network), tau=tau)
    rule.backward(x, Y)
    inputs, outputs, value = {}, {}, x
    for layer in network:
        inputs[layer], value = value.detach(), layer(value)
        outputs[layer] = value
    layers = [layer for layer in network if any(True for _ in layer.parameters())]
    loss = nn.functional.cross_entropy(value, Y)
    errors = torch.autograd.grad(loss, [outputs[layer] for layer in layers])
    for layer, trained, error in zip(layers, [m for m in rule.network if hasattr(m, "weight")], errors, strict=True):
        wanted = (outputs[layer] - error).detach()
        copied = copy.deepcopy(layer)
        start = [p.detach().clone() for p in layer.parameters()]
        search = torch.optim.LBFGS(copied.parameters(), max_iter=300, tolerance_grad=1e-13, tolerance_change=1e-16)

        def cost(layer=layer, copied=copied, wanted=wanted, start=start, search=search):
            search.zero_grad()
            far = sum((p - q).square().sum() for p, q in zip(copied.parameters(), start, strict=True))
            value = (copied(inputs[layer]) - wanted).square().sum() / 2 + far / (2 * tau)
            value.backward()
            return value

        search.step(cost)
        for p, q, before in zip(trained.parameters(), copied.parameters(), start, strict=True):
            torch.testing.assert_close(before - p.grad, q.detach(), rtol=1e-6, atol=1e-8)


@each_network
@pytest.mark.parametrize("tau", [0.05, 1.0, 20.0])
def test_it_is_bpc_with_c_of_one_over_tau_and_the_mean_over_the_batch(case, tau):
    network, x = case
    for mine, theirs in zip(
        gradients(ProxProp, network, x, tau=tau), gradients(BPC, network, x, regularisation=1 / tau), strict=True
    ):
        torch.testing.assert_close(mine, theirs / 8)


@each_network
def test_small_tau_is_a_gradient_step_of_tau(case):
    network, x = case
    for mine, gradient in zip(gradients(ProxProp, network, x, tau=1e-8), gradients(Backprop, network, x), strict=True):
        torch.testing.assert_close(mine / 1e-8, gradient, rtol=1e-5, atol=1e-7)


@each_network
def test_conjugate_gradients_come_closer_with_every_step_and_arrive(case):
    network, x = case
    exact = torch.cat([g.flatten() for g in gradients(ProxProp, network, x, tau=1.0)])
    distances = []
    for steps in (1, 2, 3, 5, 10, 40):
        found = torch.cat([g.flatten() for g in gradients(ProxProp, network, x, tau=1.0, cg_steps=steps)])
        distances.append(((found - exact).norm() / exact.norm()).item())
    assert all(later < earlier for earlier, later in itertools.pairwise(distances[:5]))
    assert distances[0] > 1e-2
    assert distances[-1] < 1e-8


def test_conjugate_gradients_are_the_textbooks_for_each_output_from_where_the_weights_are():
    """One output after the other, on the normal equations of W itself, started at W_k."""
    torch.manual_seed(1)
    network, tau, steps = nn.Linear(10, 3).double(), 2.0, 3
    x = torch.randn(8, 10, dtype=torch.float64)
    z = network(x)
    wanted = (z - torch.autograd.grad(nn.functional.cross_entropy(z, Y), z)[0]).detach()
    rows = torch.cat([x, torch.ones(8, 1, dtype=torch.float64)], dim=1)
    A = rows.T @ rows + torch.eye(11, dtype=torch.float64) / tau
    now = torch.cat([network.weight, network.bias[:, None]], dim=1).detach()
    expected = now.clone()
    for i, (start, aim) in enumerate(zip(now, wanted.T, strict=True)):
        w = expected[i]  # a view: the steps below are taken in place
        r = rows.T @ aim + start / tau - A @ w
        p = r.clone()
        for _ in range(steps):
            alpha = (r @ r) / (p @ A @ p)
            w.add_(alpha * p)
            fresh = r - alpha * (A @ p)
            p = fresh + (fresh @ fresh) / (r @ r) * p
            r = fresh
    weight, bias = gradients(ProxProp, network, x, tau=tau, cg_steps=steps)
    torch.testing.assert_close(weight, now[:, :-1] - expected[:, :-1])
    torch.testing.assert_close(bias, now[:, -1] - expected[:, -1])


def test_a_solved_layer_takes_no_step_and_divides_by_nothing():
    network = nn.Linear(4, 2).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    rule = ProxProp(network, nn.MSELoss(), cg_steps=7)
    rule.backward(x, network(x).detach())
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in rule.parameters())


def test_a_step_of_any_size_lowers_the_loss_of_one_layer():
    """Explicit steps of these sizes lead away."""
    torch.manual_seed(2)
    x, y = 3 * torch.randn(30, 10), torch.randint(3, (30,))
    for tau in (0.1, 1.0, 10.0, 1e4):
        rule = ProxProp(nn.Linear(10, 3), tau=tau)
        optimizer = torch.optim.SGD(rule.parameters(), lr=1.0)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            losses.append(rule.backward(x, y))
            optimizer.step()
        assert all(later < earlier for earlier, later in itertools.pairwise(losses))


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"tau": math.nan}, {"cg_steps": 0}])
def test_options_out_of_range_are_refused(options, one_line):
    with one_line(UserError, next(iter(options))):
        ProxProp(nn.Linear(4, 3), **options)
