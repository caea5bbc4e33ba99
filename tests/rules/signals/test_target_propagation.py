"""Difference target propagation in all variants against inverses, closed forms, and losses written out unit by unit."""

import copy
import math

import pytest
import torch
from target_variants import SIGMA, VARIANTS, batch, make, perceptron
from torch import nn
from torch.nn import functional as F

from beyondprop.rules.signals.direct_feedback import DFA
from beyondprop.rules.signals.direct_target_propagation import DDTP
from beyondprop.rules.signals.target_propagation import DTP, DTPDR


class Noise:
    """Gives a rule the noise of a test, and keeps it."""

    def __init__(self, rule, monkeypatch):
        self.given = []
        monkeypatch.setattr(rule, "noises", self.noises)
        self.draw = lambda value: SIGMA * torch.randn_like(value)

    def noises(self, values):
        self.given = [self.draw(value) for value in values]
        return self.given


def units(network):
    """f_1..f_L of a perceptron."""
    return [nn.Sequential(*list(network)[2 * i : 2 * i + 2]) for i in range((len(network) + 1) // 2)]


def activations(network, x):
    found = [x]
    for unit in units(network):
        found.append(unit(found[-1]))
    return [h.detach() for h in found[1:]]


def ahead(network, start, h):
    """h_L from another output of unit `start`, counted from 0."""
    for unit in units(network)[start + 1 :]:
        h = unit(h)
    return h


def back(rule, index):
    """Feedback of a unit, written out: from its output to the output of the unit below (dtp, dtpdr) ..."""
    layer = rule.feedback[index - 1].layer
    return lambda y: torch.tanh(y @ layer.weight.T + layer.bias)


def direct(rule, index):
    """... or from the output of the network to that of the unit."""
    name = str(2 * index)
    weight = rule.feedback[name]
    if rule.kind == "linear":
        return lambda y: y @ weight
    bias = rule.feedback[f"{name} bias"]
    if rule.kind == "control":
        return lambda y: y @ weight + bias
    if index == 2:
        return lambda y: torch.tanh(y @ weight + bias)
    return lambda y: torch.tanh(torch.tanh(y @ rule.spread + rule.shift) @ weight + bias)


def feedback_losses(rule, network, x, noise):
    """The papers' losses by their definition, sample by sample and unit by unit, with what each of them trains."""
    losses = []
    hs = activations(network, x)
    for index in range(3):
        total = 0.0
        for row in range(len(x)):
            h, e = [value[row] for value in hs], noise[index][row]
            corrupted = h[index] + e
            if type(rule) is DTP:
                g = back(rule, index + 1)
                rest = g(units(network)[index + 1](corrupted)) - corrupted
            elif type(rule) is DTPDR:
                target = ahead(network, index, corrupted)
                for j in range(3, index, -1):
                    g = back(rule, j)
                    target = h[j - 1] + g(target) - g(h[j])
                    target = target.detach() if j > index + 1 else target  # g_j of the others learn nothing by it
                rest = target - corrupted
            else:
                g, output = direct(rule, index), ahead(network, index, corrupted).detach()
                rest = g(output) - corrupted if rule.kind == "control" else g(output) - g(h[3]) - e
            total = total + rest.square().sum()
        scale = 1 if getattr(rule, "kind", "") == "control" else SIGMA**2
        losses.append(total / (len(x) * scale))
    return losses


def own_parameters(rule, index):
    """What unit `index`'s loss trains, in the order of `feedback_losses`."""
    if isinstance(rule, DTP):
        return list(rule.feedback[index].parameters())
    names = [name for name in rule.feedback if name.split()[0] == str(2 * index)]
    return [rule.feedback[name] for name in names]


@pytest.mark.parametrize("variant", VARIANTS)
def test_feedback_learns_from_the_papers_losses(variant, monkeypatch):
    """Each unit's feedback from its own loss, and no other from it."""
    rule, (x, y) = make(variant), batch()
    noise = Noise(rule, monkeypatch)
    rule.backward(x, y)
    trained = set()
    for index, loss in enumerate(feedback_losses(rule, rule.network, x, noise.given)):
        parameters = own_parameters(rule, index)
        for p, expected in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            torch.testing.assert_close(p.grad, expected)
            trained.add(id(p))
    assert trained == {id(p) for p in rule.feedback.parameters()}


@pytest.mark.parametrize("alone", ["stage", "phase"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_where_feedback_learns_alone_its_loss_is_returned(variant, alone, monkeypatch):
    rule, (x, y) = make(variant, pretraining=1, feedback_steps=2), batch()
    noise = Noise(rule, monkeypatch)
    if alone == "stage":
        rule.stage = "feedback"
    found = rule.backward(x, y, "feedback" if alone == "phase" else None)
    torch.testing.assert_close(found, sum(feedback_losses(rule, rule.network, x, noise.given)).detach())
    rule.stage = "both"
    torch.testing.assert_close(rule.backward(x, y), F.cross_entropy(rule.network(x), y).detach())


def test_noise_has_its_spread_and_is_independent_within_a_unit():
    rule = make("dtp")
    values = [torch.zeros(4000, 7).double(), torch.zeros(4000, 3, 2).double()]
    for value, noise in zip(values, rule.noises(values), strict=True):
        assert noise.shape == value.shape
        assert noise.dtype == value.dtype
        found = noise.flatten(1).T @ noise.flatten(1) / len(noise) / SIGMA**2
        torch.testing.assert_close(found, torch.eye(len(found)).double(), atol=0.1, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_feedback_gradients_by_finite_differences(variant, monkeypatch):
    rule, (x, y) = make(variant), batch()
    noise = Noise(rule, monkeypatch)
    rule.backward(x, y)
    for index in range(3):
        p = own_parameters(rule, index)[0]
        ends = []
        for shift in (1e-5, -1e-5):
            kept = p.data.clone()
            p.data[1, 2] += shift
            ends.append(feedback_losses(rule, rule.network, x, noise.given)[index].item())
            p.data.copy_(kept)
        assert p.grad[1, 2].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_units_learn_towards_the_papers_targets(variant):
    """By the targets' formula, and the derivative of |h_i - t_i|^2 / (2 eta N) summed over the batch."""
    rule, (x, y) = make(variant, target_step=0.3), batch()
    before = copy.deepcopy(list(rule.feedback.parameters()))
    rule.backward(x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, rule.feedback.parameters(), strict=True))
    network = rule.network
    hs = activations(network, x)
    target = hs[3] - 0.3 * (torch.softmax(hs[3], 1) - F.one_hot(y, 3))
    targets = [None] * 3 + [target]
    for index in (2, 1, 0):
        if isinstance(rule, DTP):
            g = back(rule, index + 1)
            targets[index] = hs[index] + g(targets[index + 1]) - g(hs[index + 1])
        else:
            g = direct(rule, index)
            targets[index] = hs[index] + g(target) - g(hs[3])
    for (name, found), expected in zip(rule.targets(x, y).items(), targets, strict=True):
        torch.testing.assert_close(found, expected.detach(), msg=name)
    for index, unit in enumerate(units(network)):
        h = unit(x if index == 0 else hs[index - 1])
        loss = (h - targets[index].detach()).square().sum() / (2 * 0.3 * len(x))
        for p, expected in zip(unit.parameters(), torch.autograd.grad(loss, list(unit.parameters())), strict=True):
            torch.testing.assert_close(p.grad, expected)


class Inverse(nn.Module):
    """The exact inverse of linear after tanh."""

    def __init__(self, layer, activated):
        super().__init__()
        self.inverse, self.bias, self.activated = torch.linalg.inv(layer.weight.detach()), layer.bias, activated

    def forward(self, y, _kept):
        return ((torch.atanh(y) if self.activated else y) - self.bias) @ self.inverse.T


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Identity])
def test_with_exact_inverses_targets_are_those_of_gauss_newton(activation):
    """With u = pinv(J) dl/dh_L: the difference falls with the square of eta, and is nothing on a linear network."""
    network, (x, y) = perceptron(4, 4, 4, 4, activation=activation), batch(classes=4)
    for layer in network[::2]:
        layer.weight.data.mul_(0.4).add_(torch.eye(4))  # far from singular
    hs = activations(network, x)
    error = torch.softmax(hs[2], 1) - F.one_hot(y, 4)
    newton = []
    for index in (0, 1):
        jacobian = torch.func.jacrev(lambda h, index=index: ahead(network, index, h))
        inverses = torch.linalg.pinv(torch.func.vmap(jacobian)(hs[index]).detach())
        newton.append((inverses @ error[..., None]).squeeze(-1))
    gaps = []
    for eta in (1e-2, 1e-3):
        rule = DTP(network, x, target_step=eta)
        rule.feedback = nn.ModuleList([Inverse(network[2], activation is nn.Tanh), Inverse(network[4], False)])
        targets = list(rule.targets(x, y).values())
        gaps.append(max((targets[i] - (hs[i] - eta * newton[i])).norm().item() for i in (0, 1)))
    if activation is nn.Tanh:
        assert math.log10(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.1)
    else:
        assert max(gaps) < 1e-14


def every_direction(rule, monkeypatch):
    """Noise whose mean over the batch is exactly sigma^2 I: each unit's directions one after another, equally often."""
    noise = Noise(rule, monkeypatch)

    def draw(value):
        width = value.shape[1]
        return SIGMA * math.sqrt(width) * torch.eye(width, dtype=value.dtype).repeat(len(value) // width, 1)

    noise.draw = draw


@pytest.mark.parametrize("variant", ["linear", "dtpdr"])
def test_descent_on_the_loss_leads_to_the_damped_pseudo_inverse(variant, monkeypatch):
    """Linear network: J^T (J J^T + lambda)^-1 with weight decay 2 lambda; the distance falls all the way."""
    decay = 0.5
    network = perceptron(4, 6, 6, 3, activation=nn.Identity)
    rule, (x, y) = make(variant, network), batch(count=30)
    every_direction(rule, monkeypatch)
    second, third = network[2].weight.detach(), network[4].weight.detach()

    def damped(jacobian):
        size = len(jacobian)
        return jacobian.T @ torch.linalg.inv(jacobian @ jacobian.T + decay / 2 * torch.eye(size, dtype=jacobian.dtype))

    if variant == "linear":
        goals = {"0": damped(third @ second).T, "2": damped(third).T}
        wanted = [(rule.feedback[name], goal) for name, goal in goals.items()]
    else:
        wanted = [(rule.feedback[1].layer.weight, damped(third))]
    optimizer = torch.optim.SGD([p for p, _ in wanted], lr=0.3, weight_decay=decay)
    distances = []
    for _ in range(4):
        found = sum((p - goal).norm().item() for p, goal in wanted)
        distances.append(max(found, 1e-12))  # below it only rounding is left
        for _ in range(200):
            rule.zero_grad()
            rule.backward(x, y)
            optimizer.step()
    assert distances == sorted(distances, reverse=True)
    for p, goal in wanted:
        torch.testing.assert_close(p.detach(), goal, atol=1e-6, rtol=1e-5)


def test_the_chain_of_trained_feedback_brings_down_gauss_newton_targets(monkeypatch):
    """Linear network, hardly any damping: all the way to the first unit, its targets are those of Gauss-Newton."""
    network = perceptron(4, 6, 5, 3, activation=nn.Identity)
    rule, (x, y) = make("dtpdr", network), batch(count=30)
    every_direction(rule, monkeypatch)
    hs = activations(network, x)
    error = torch.softmax(hs[2], 1) - F.one_hot(y, 3)
    jacobian = (network[4].weight @ network[2].weight).detach()
    newton = hs[0] - rule.target_step * error @ torch.linalg.pinv(jacobian).T
    optimizer = torch.optim.Adam(rule.feedback.parameters(), lr=0.01)
    angles = []
    for _ in range(3):
        step, goal = rule.targets(x, y)["0"] - hs[0], newton - hs[0]
        angles.append(math.degrees(math.acos(min(1, ((step * goal).sum() / step.norm() / goal.norm()).item()))))
        for _ in range(400):
            rule.zero_grad()
            rule.backward(x, y)
            optimizer.step()
    assert angles == sorted(angles, reverse=True)
    assert angles[0] > 30
    assert angles[-1] < 2


def test_frozen_direct_feedback_is_direct_feedback_alignment():
    network, (x, y) = perceptron(4, 7, 6, 3, activation=nn.ReLU), batch()
    rule = DDTP(network, x)
    dfa = DFA(copy.deepcopy(network), x)
    rule.feedback.requires_grad_(False)
    for name in dfa.feedback:
        rule.feedback[name].copy_(dfa.feedback[name])
    torch.testing.assert_close(rule.backward(x, y), dfa.backward(x, y))
    for ours, theirs in zip(network.parameters(), dfa.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(p.grad is None for p in rule.feedback.parameters())


def test_a_linear_classifier_has_nothing_to_bring_down():
    x, y = batch()
    for variant in VARIANTS:
        rule = make(variant, perceptron(4, 3))
        rule.backward(x, y)
        expected = torch.autograd.grad(F.cross_entropy(rule.network(x), y), rule.network[0].weight)[0]
        torch.testing.assert_close(rule.network[0].weight.grad, expected)
