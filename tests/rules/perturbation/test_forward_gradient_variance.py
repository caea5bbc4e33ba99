"""Forward gradients are unbiased, and their variance is the paper's."""

import numpy as np
import pytest
import torch
from differentiated_networks import NETWORKS, gradient_of, make, true_gradient
from torch import nn

from beyondprop.rules.perturbation.forward_gradient import ForwardGradient, layers_into_relu


@pytest.mark.slow
def test_orthogonal_activities_are_unbiased_and_vary_less():
    """With K orthogonal directions of U a share of about (1 - K / U) of the variance is left; here K is 4 of 6."""
    network, x, y = make("perceptron")
    true, spread = true_gradient(network, x, y), []
    for orthogonal in (False, True):
        rule, found = ForwardGradient(network, directions=4, orthogonal=orthogonal), []
        torch.manual_seed(3)
        for _ in range(250):
            rule.zero_grad()
            rule.backward(x, y)
            found.append(gradient_of(rule))
        found = torch.stack(found)
        expected = found.var(dim=0).sum() / len(found)
        assert 0.2 * expected < (found.mean(dim=0) - true).square().sum() < 3 * expected
        spread.append(found.var(dim=0).sum())
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize("perturb", ["activities", "weights"])
@pytest.mark.parametrize("name", NETWORKS)
def test_estimates_are_unbiased(name, perturb):
    """The mean of many lies within five standard errors of the gradient, in its direction and in all others at once."""
    network, x, y = make(name)
    rule = ForwardGradient(network, perturb=perturb)
    torch.manual_seed(3)
    found = []
    for _ in range(200):
        rule.zero_grad()
        rule.backward(x, y)
        found.append(gradient_of(rule))
    found, true = torch.stack(found), true_gradient(network, x, y)
    along = found @ true / true.square().sum()
    assert (along.mean() - 1).abs() < 5 * along.std() / len(along) ** 0.5
    distance = (found.mean(dim=0) - true).square().sum()
    expected = found.var(dim=0).sum() / len(found)  # of an unbiased mean
    assert 0.2 * expected < distance < 3 * expected


@pytest.mark.slow
@pytest.mark.parametrize("units", [4, 16])
def test_variance_is_the_papers(units):
    """One sample, a loss linear in the output, so that the gradient is constant: (pq + 1) S and (q + 1) S, Table 1."""
    torch.manual_seed(0)
    inputs = 5
    x, c = torch.randn(1, inputs).double(), torch.randn(units).double()
    mean_square = (c[:, None] * x).square().mean()
    for perturb, factor in (("weights", inputs * units + 1), ("activities", units + 1)):
        layer = nn.Linear(inputs, units, bias=False).double()
        rule = ForwardGradient(layer, lambda z, _: z @ c, perturb=perturb)
        torch.manual_seed(1)
        found = []
        for _ in range(3000):
            rule.zero_grad()
            rule.backward(x, x)
            found.append(layer.weight.grad.clone())
        variance = torch.stack(found).var(dim=0).mean().item()
        assert variance == pytest.approx(factor * mean_square.item(), rel=0.15)


def test_variance_falls_with_the_batch_as_in_the_paper():
    """Table 1: noise for each sample, (q + 2) V / N + (q + 1) S / N; one for all weights, (pq + 2) V / N + (pq + 1) S.

    V is the variance of the samples' gradients, S the square of their mean.
    """
    torch.manual_seed(0)
    inputs, units, deviation, counts = 4, 3, 0.7, (1, 4, 16)
    mean, c = torch.randn(inputs).double(), torch.randn(units).double()
    between = (c.square().mean() * deviation**2).item()
    square = (c.square().mean() * mean.square().mean()).item()
    measured = {}
    for perturb, size in (("activities", units), ("weights", inputs * units)):
        for count in counts:
            layer, found = nn.Linear(inputs, units, bias=False).double(), []
            rule = ForwardGradient(layer, lambda z, _: z @ c, perturb=perturb)
            for _ in range(500):
                x = mean + deviation * torch.randn(count, inputs).double()
                rule.zero_grad()
                rule.backward(x, x)
                found.append(layer.weight.grad.clone())
            variance = torch.stack(found).var(dim=0).mean().item()
            stays = square * (size + 1) / (count if perturb == "activities" else 1)
            assert variance == pytest.approx((size + 2) * between / count + stays, rel=0.3), (perturb, count)
            measured[perturb, count] = variance
    slope = {
        perturb: np.polyfit(np.log(counts), np.log([measured[perturb, count] for count in counts]), 1)[0]
        for perturb in ("activities", "weights")
    }
    assert slope["activities"] == pytest.approx(-1, abs=0.15)
    assert -0.5 < slope["weights"] < 0


def test_units_that_a_relu_switches_off_hear_no_noise():
    """Their gradient is zero and so is their estimate; the others' varies less, and stays right on average."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).double()
    x, y = torch.randn(1, 6).double(), torch.tensor([1])
    off = [network[:place](x)[0] <= 0 for place in (1, 3)]
    assert all(0 < part.sum() < 24 for part in off)
    true = true_gradient(network, x, y)
    drawn = {}
    for relu in (nn.ReLU, type("Other", (nn.ReLU,), {})):  # whose kind tells nothing of where it is zero
        network[1], network[3] = relu(), relu()
        rule, estimates = ForwardGradient(network), []
        for _ in range(300):
            rule.zero_grad()
            rule.backward(x, y)
            estimates.append(gradient_of(rule))
            if relu is nn.ReLU:
                assert not any(network[layer].bias.grad[part].any() for layer, part in zip((0, 2), off, strict=True))
        drawn[relu] = torch.stack(estimates)
    along = drawn[nn.ReLU] @ true / true.square().sum()
    assert (along.mean() - 1).abs() < 5 * along.std() / len(along) ** 0.5
    masked, plain = (each.var(dim=0).sum() for each in drawn.values())
    assert masked < 0.7 * plain


def test_a_layer_that_is_used_elsewhere_too_is_not_gated():
    """Behind its other use there is no ReLU: the estimate has to stay unbiased."""
    shared = nn.Linear(4, 4).double()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.Tanh())

        def forward(self, x):
            return self.second(self.first(x))

    assert len(layers_into_relu(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))) == 1
    assert not layers_into_relu(Twice())
    relu, tanh, other = nn.ReLU(), nn.Tanh(), nn.Linear(4, 4).double()
    assert not layers_into_relu(nn.Sequential(shared, relu, shared))
    assert not layers_into_relu(nn.Sequential(tanh, shared, tanh, relu))
    assert layers_into_relu(nn.Sequential(shared, relu, other, relu)) == {shared, other}


def test_more_directions_are_averaged():
    network, x, y = make("perceptron")
    for perturb in ("activities", "weights"):
        spread = []
        for directions in (1, 8):
            rule = ForwardGradient(network, perturb=perturb, directions=directions)
            torch.manual_seed(2)
            found = []
            for _ in range(120):
                rule.zero_grad()
                rule.backward(x, y)
                found.append(gradient_of(rule))
            spread.append(torch.stack(found).var(dim=0).sum())
        assert (spread[0] / spread[1]).item() == pytest.approx(8, rel=0.4)
