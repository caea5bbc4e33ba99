"""Forward gradients along a whole basis of directions are the gradient."""

import pytest
import torch
from differentiated_networks import NETWORKS, flat, gradient_of, make, true_gradient
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.rules.perturbation.forward_gradient import ForwardGradient


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_along_a_whole_basis_give_the_gradient(name):
    """As many orthogonal directions as parameters: nothing is left to chance."""
    network, x, y = make(name)
    rule = ForwardGradient(network, perturb="weights", directions=flat(network.parameters()).numel(), orthogonal=True)
    loss = rule.backward(x, y)
    network.eval() if name == "batch norm" else None
    torch.testing.assert_close(gradient_of(rule), true_gradient(network.train(), x, y))
    torch.testing.assert_close(loss, F.cross_entropy(network(x), y).detach())


class Sharing(nn.Module):
    """Uses a linear layer's weight by itself, a frozen weight with a bias that learns, and one weight twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight.requires_grad_(False)

    def forward(self, x):
        h = self.second(torch.tanh(self.first(x)))
        return self.third(torch.tanh(F.linear(h, self.first.weight) + self.second.bias))


def test_weights_are_followed_wherever_they_are_used():
    torch.manual_seed(0)
    network, x, y = Sharing().double(), torch.randn(4, 3).double(), torch.tensor([0, 1, 1, 0])
    trained = [p for p in network.parameters() if p.requires_grad]
    rule = ForwardGradient(network, perturb="weights", directions=flat(trained).numel(), orthogonal=True)
    rule.backward(x, y)
    expected = torch.autograd.grad(F.cross_entropy(network(x), y), trained)
    torch.testing.assert_close(flat(p.grad for p in trained), flat(expected))


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "layer norm"])
def test_activities_along_a_whole_basis_give_the_gradient(name, monkeypatch):
    """One unit of one layer moves at a time, for all samples; the estimates are added."""
    network, x, y = make(name)
    rule, sizes = ForwardGradient(network), []
    monkeypatch.setattr(
        rule, "noise", lambda value, generator: sizes.append(value[0].numel()) or torch.zeros_like(value)
    )
    rule.backward(x, y)
    layers = list(sizes)
    rule.zero_grad()
    for layer, size in enumerate(layers):
        for unit in range(size):
            calls = []

            def one(value, generator, layer=layer, unit=unit, calls=calls):
                calls.append(value)
                noise = torch.zeros_like(value)
                if len(calls) == layer + 1:
                    noise.flatten(1)[:, unit] = 1.0
                return noise

            monkeypatch.setattr(rule, "noise", one)
            rule.backward(x, y)
    torch.testing.assert_close(gradient_of(rule), true_gradient(network, x, y))


class Tabled(nn.Module):
    """Has a layer that looks the same for every batch, beside one with an example a row."""

    def __init__(self):
        super().__init__()
        self.table, self.read = nn.Linear(2, 3), nn.Linear(3, 2)
        self.register_buffer("rows", torch.randn(4, 2, generator=torch.Generator().manual_seed(2)))

    def forward(self, x):
        return self.read(x * torch.tanh(self.table(self.rows)).mean(dim=0))


ORTHOGONAL = {
    "perceptron": 6,
    "convolutional": 10,
    "layer norm": 10,
    "batch norm": 40,
    "one loss": 24,
    "rows of no example": 20,
}


@pytest.mark.parametrize("case", ORTHOGONAL)
def test_orthogonal_activities_of_a_whole_basis_give_the_gradient(case):
    """As many directions as a sample has units, or the whole batch where samples share a signal."""
    network, x, y = make(case if case in NETWORKS else "perceptron", count=4)
    if case == "rows of no example":
        network = Tabled().double()
    units = ORTHOGONAL[case]
    rule = ForwardGradient(network, F.cross_entropy if case == "one loss" else None, directions=units, orthogonal=True)
    rule.backward(x, y)
    torch.testing.assert_close(gradient_of(rule), true_gradient(network, x, y))
    too_many = ForwardGradient(network, rule.loss, directions=units + 1, orthogonal=True)
    with pytest.raises(UserError, match=f"no {units + 1} orthogonal directions among {units} units"):
        too_many.backward(x, y)


def test_orthogonal_activities_of_a_whole_basis_lose_nothing_by_rounding():
    """In float32, one pass of orthogonalisation leaves an error about ten times as large."""
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 2))
        x, y = torch.randn(4, 3), torch.arange(4) % 2
        rule = ForwardGradient(network, directions=42, orthogonal=True)
        rule.backward(x, y)
        true = true_gradient(network, x, y)
        errors.append(((gradient_of(rule) - true).norm() / true.norm()).item())
    assert max(errors) < 6e-7


class Numbers(nn.Module):
    """A layer that gives one number a sample, shape (batch,)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_layer_may_give_one_number_a_sample(orthogonal):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), Numbers()).double()
    x = torch.randn(4, 3).double()
    rule = ForwardGradient(network, lambda z, y: (z - y).square(), directions=4, orthogonal=orthogonal)
    rule.backward(x, torch.ones(4).double())
    found = gradient_of(rule)
    expected = torch.autograd.grad((network(x) - 1).square().mean(), list(network.parameters()))
    if orthogonal:  # as many directions as units
        torch.testing.assert_close(found, flat(expected))
    assert found.isfinite().all()


@pytest.mark.parametrize("perturb", ["weights", "activities"])
def test_orthogonal_directions_in_bfloat16(perturb):
    """Of as many as there are numbers, rounded to a few hundredths, the estimate is nearly the gradient."""
    torch.manual_seed(0)
    network, x, y = nn.Linear(3, 2).bfloat16(), torch.randn(4, 3).bfloat16(), torch.arange(4) % 2
    count = {"weights": 8, "activities": 2}[perturb]
    rule = ForwardGradient(network, perturb=perturb, directions=count, orthogonal=True)
    rule.backward(x, y)
    found, true = gradient_of(rule).float(), true_gradient(network, x, y).float()
    assert (found - true).norm() < 0.05 * true.norm()


class Reader(nn.Module):
    """torch's own LSTM over the rows, which forward mode passes without its fused kernel."""

    def __init__(self):
        super().__init__()
        self.lstm, self.read = nn.LSTM(2, 2, batch_first=True), nn.Linear(2, 2)

    def forward(self, x):
        return self.read(self.lstm(x)[0][:, -1])


def test_weights_of_an_lstm_by_all_directions_give_its_gradient():
    torch.manual_seed(0)
    fused = torch._C._get_mkldnn_enabled()
    network, x, y = Reader().double(), torch.randn(3, 4, 2).double(), torch.tensor([0, 1, 1])
    count = sum(p.numel() for p in network.parameters())
    ForwardGradient(network, perturb="weights", directions=count, orthogonal=True).backward(x, y)
    assert torch._C._get_mkldnn_enabled() == fused  # or all later convolutions would be slow
    expected = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), list(network.parameters()))
    for p, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
