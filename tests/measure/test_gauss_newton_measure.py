"""Angles to Gauss-Newton updates and null-space ratios, beside null spaces that are known or found by brute force."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.measure.gauss_newton import gauss_newton_alignment
from beyondprop.rules.local.noprop import NoPropDT
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.direct_feedback import DFA
from beyondprop.rules.signals.feedback_alignment import KolenPollack
from beyondprop.rules.signals.gauss_newton import GaussNewtonTargets


def batch(count, *size, classes=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *size, generator=generator).double(), torch.randint(
        classes, (count,), generator=generator
    )


def perceptron(bias=True):
    torch.manual_seed(0)
    layers = [nn.Linear(9, 8, bias=bias), nn.Tanh(), nn.Linear(8, 7, bias=bias), nn.Tanh(), nn.Linear(7, 3, bias=bias)]
    return nn.Sequential(*layers).double()


def convolutional(norm=False):
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4)] * norm
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), *norms, nn.Tanh(), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(16, 3)
    ).double()


class Reader(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(9, 9), nn.Linear(9, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.cell(torch.tanh(self.cell(x)))))


def brute_force(network, layer, x, update):
    """By central differences of all outputs along every parameter of a layer, and an SVD."""
    columns = []
    for parameter in layer.parameters():
        for n in range(parameter.numel()):
            ends = []
            for sign in (1, -1):
                moved = copy.deepcopy(network)
                twin = dict(zip(network.modules(), moved.modules(), strict=True))[layer]
                number = [p is parameter for p in layer.parameters()].index(True)
                with torch.no_grad():
                    list(twin.parameters())[number].view(-1)[n] += sign * 1e-6
                    torch.manual_seed(4)
                    ends.append(moved(x).flatten())
            columns.append((ends[0] - ends[1]) / 2e-6)
    _, values, basis = torch.linalg.svd(torch.stack(columns, dim=1), full_matrices=False)
    basis = basis[values > 1e-7 * values.max()]
    return float((update - basis.T @ (basis @ update)).norm() / update.norm())


@pytest.mark.parametrize(("along", "across"), [(1.0, 0.0), (3.0, 4.0), (0.0, 2.0)])
def test_a_null_space_that_is_known(along, across):
    """One sample, one linear layer: no output moves where weights change along inputs that the sample has not."""
    x, y = batch(1, 5)

    class Known(Backprop):
        def assign_credit(self, x, y, phase):
            loss = super().assign_credit(x, y, phase)
            with_it = x[0] / x[0].norm()
            other = torch.ones_like(with_it)
            other -= (other @ with_it) * with_it
            other /= other.norm()
            self.network.weight.grad[:] = 0
            self.network.weight.grad[1] = along * with_it + across * other
            return loss

    found = gauss_newton_alignment(Known(nn.Linear(5, 3, bias=False).double()), x, y)["network"]
    assert found.null_space == pytest.approx(across / math.hypot(along, across), abs=1e-7)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    "make", [perceptron, lambda: perceptron(bias=False), Shared, convolutional, lambda: convolutional(norm=True)]
)
def test_ratio_is_that_of_brute_force(make, samples):
    network = make().double()
    x, y = batch(5, *((2, 6, 6) if any(isinstance(m, nn.Conv2d) for m in network.modules()) else (9,)))
    torch.manual_seed(2)
    rule = DFA(network, x)
    torch.manual_seed(4)
    found = gauss_newton_alignment(rule, x, y, samples=samples)
    torch.manual_seed(4)
    rule.backward(x[:samples], y[:samples])
    name = "network.cell" if make is Shared else "network.0"
    layer = rule.get_submodule(name)
    update = torch.cat([p.grad.flatten() for p in layer.parameters()])
    expected = brute_force(network, layer, x[:samples], update)
    assert expected > 0.05
    assert found[name].null_space == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_a_recurrent_layer_is_one_layer(kind):
    """Its point is its output, whose every step is moved; of these the readout reads the last alone."""
    network = Reader(kind).double()
    x, y = batch(2, 5, 3)

    class Bent(Backprop):
        def assign_credit(self, x, y, phase):
            loss = super().assign_credit(x, y, phase)
            for parameter in self.network.rnn.parameters():
                parameter.grad += torch.linspace(-0.1, 0.2, parameter.numel()).view_as(parameter)
            return loss

    found = gauss_newton_alignment(Bent(network), x, y, damping=0.1)
    assert list(found) == ["network.rnn", "network.head"]
    rule = Bent(network)
    rule.backward(x, y)
    update = torch.cat([p.grad.flatten() for p in network.rnn.parameters()])
    assert found["network.rnn"].null_space == pytest.approx(brute_force(network, network.rnn, x, update), abs=2e-5)
    network.zero_grad()
    state = network.rnn(x)[0][:, -1]
    scores = network.head(state).detach().requires_grad_()
    (error,) = torch.autograd.grad(F.cross_entropy(scores, y), scores)
    w = network.head.weight.detach()
    step = error @ torch.linalg.inv(w @ w.T + 0.1 * torch.eye(3).double()) @ w
    taught = torch.autograd.grad(state, list(network.rnn.parameters()), step)
    reference = torch.cat([part.flatten() for part in taught])
    cosine = float(update @ reference / update.norm() / reference.norm())
    assert found["network.rnn"].angle == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-5)
    assert found["network.rnn"].norm_ratio == pytest.approx(float(update.norm() / reference.norm()))


def test_samples_that_meet_in_a_batch_norm_are_not_taken_one_by_one():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = batch(4, 9)
    rule = DFA(network, x)
    found = gauss_newton_alignment(rule, x, y)["network.0"].null_space
    rule.backward(x, y)
    update = torch.cat([p.grad.flatten() for p in network[0].parameters()])
    assert found == pytest.approx(brute_force(network, network[0], x, update), abs=1e-4)


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_back_propagation_and_gauss_newton_leave_no_part_of_an_update_unused(make):
    network = make()
    x, y = batch(6, *((9,) if make is perceptron else (2, 6, 6)))
    for rule in (Backprop(network), GaussNewtonTargets(network, x, damping=0.1)):
        for found in gauss_newton_alignment(rule, x, y).values():
            assert found.null_space < 1e-5


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_gauss_newton_has_no_angle_to_itself(damping):
    network = convolutional()
    x, y = batch(6, 2, 6, 6)
    found = gauss_newton_alignment(GaussNewtonTargets(network, x, damping=damping), x, y, damping=damping)
    assert list(found) == ["network.0", "network.5"]
    for each in found.values():
        assert (each.angle, each.norm_ratio) == (0.0, 1.0)


def test_back_propagation_comes_close_as_damping_grows():
    network = perceptron()
    x, y = batch(6, 9)
    angles = [gauss_newton_alignment(Backprop(network), x, y, damping=d)["network.0"].angle for d in (0.01, 1, 100)]
    assert 5 < angles[0] < 60
    assert angles[0] > angles[1] > angles[2]
    assert angles[2] < 1
    assert gauss_newton_alignment(Backprop(network), x, y)["network.4"].angle == 0  # the last layer


def test_a_comparison_runs_the_rule_once():
    calls = 0

    class Counted(Backprop):
        def assign_credit(self, x, y, phase):
            nonlocal calls
            calls += 1
            return super().assign_credit(x, y, phase)

    gauss_newton_alignment(Counted(perceptron()), *batch(4, 9))
    assert calls == 1


def test_only_the_first_samples_are_looked_at():
    network = perceptron()
    x, y = batch(6, 9)
    rule = DFA(network, x)
    assert gauss_newton_alignment(rule, x, y, samples=2) == gauss_newton_alignment(rule, x[:2], y[:2])
    assert gauss_newton_alignment(rule, x, y, samples=2) != gauss_newton_alignment(rule, x, y, samples=3)


def test_more_samples_leave_fewer_directions():
    network = perceptron()
    x, y = batch(40, 9)
    rule = DFA(network, x)
    ratios = [gauss_newton_alignment(rule, x, y, samples=n)["network.2"].null_space for n in (1, 40)]
    assert ratios[0] > 0.1
    assert ratios[1] < 1e-6  # 120 rows, 63 parameters


def test_nothing_is_changed():
    torch.manual_seed(0)
    network = convolutional(norm=True)
    x, y = batch(6, 2, 6, 6)
    rule = DFA(network, x)
    rule.backward(x, y)
    before = copy.deepcopy((rule.state_dict(), [p.grad for p in rule.parameters()], torch.get_rng_state()))
    gauss_newton_alignment(rule, x, y)
    after = (rule.state_dict(), [p.grad for p in rule.parameters()], torch.get_rng_state())
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert torch.equal(before[2], after[2])
    assert not network[0]._forward_hooks


def test_what_stands_in_the_gradient_of_feedback_does_not_count():
    network = perceptron()
    x, y = batch(6, 9)
    rule = KolenPollack.for_classifier(network, x, 3)
    rule.backward(x, y)
    assert all(p.grad is not None for p in rule.parameters())
    assert list(gauss_newton_alignment(rule, x, y)) == ["network.0", "network.2", "network.4"]


def test_regression_and_a_loss_of_the_users():
    network = perceptron()
    x, _ = batch(6, 9)
    y = torch.randn(6, 3, dtype=torch.float64)
    rule = GaussNewtonTargets(network, x, F.mse_loss, damping=0.01)
    assert {each.angle for each in gauss_newton_alignment(rule, x, y).values()} == {0.0}


def test_no_ratio_where_there_is_no_update():
    class Silent(Backprop):
        def assign_credit(self, x, y, phase):
            loss = super().assign_credit(x, y, phase)
            self.network[0].weight.grad.zero_()
            self.network[0].bias.grad.zero_()
            self.network[2].bias.grad.fill_(math.nan)
            return loss

    found = gauss_newton_alignment(Silent(perceptron()), *batch(4, 9))
    assert (found["network.0"].null_space, found["network.0"].angle) == (None, None)
    assert found["network.2"].null_space is None


def test_a_rule_without_a_network_is_told():
    rule = NoPropDT.for_classifier(nn.Linear(9, 3), torch.zeros(2, 9), 3)
    x, y = batch(4, 9)
    with pytest.raises(UserError, match="no network"):
        gauss_newton_alignment(rule, x.float(), y)
    with pytest.raises(UserError, match="samples"):
        gauss_newton_alignment(Backprop(perceptron()), x, y, samples=0)
    with pytest.raises(UserError, match="samples must be a whole number"):
        gauss_newton_alignment(Backprop(perceptron()), x, y, samples=1.5)
