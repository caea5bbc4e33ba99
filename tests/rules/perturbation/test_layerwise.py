"""Perturbing one layer at a time: exact over all signs, the gradient's length, and layers of every kind."""

import itertools

import pytest
import torch
from differentiated_networks import flat, gradient_of, true_gradient
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.layers.quaternion.norm import QuaternionBatchNorm1d
from beyondprop.rules.perturbation.layerwise import LayerwisePerturbation


def conv_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh()),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).double()


def batch(count=5):
    torch.manual_seed(1)
    return torch.randn(count, 1, 4, 4).double(), torch.arange(count) % 3


@pytest.mark.parametrize("perturb", ["weights", "nodes"])
def test_summed_over_all_signs_it_is_the_gradient(perturb, monkeypatch):
    """Exact but for the curvature, which shrinks with the norm."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    x, y = torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 0])
    expected, errors = true_gradient(network, x, y), []

    def every_pattern(_high, shape, **_):
        """In the place of random ones: all once, and those of small layers several times."""
        patterns = torch.tensor(list(itertools.product((0, 1), repeat=shape[1])), dtype=torch.int8)
        return patterns.repeat(shape[0] // len(patterns), 1)

    monkeypatch.setattr(torch, "randint", every_pattern)
    for norm in (1e-2, 1e-3):
        rule = LayerwisePerturbation(network, perturb=perturb, norm=norm, normalise=False, steps=2**9)
        rule.zero_grad()
        rule.backward(x, y)
        parts = [p.grad for p in network.parameters()]
        errors.append((flat(parts) - expected).norm() / expected.norm())
    assert errors[1] < 1e-4
    assert errors[1] < 0.05 * errors[0]


@pytest.mark.parametrize("perturb", ["weights", "nodes"])
def test_it_is_unbiased(perturb):
    """On a network with convolutions and nested sequences; five standard errors over independent calls."""
    network, (x, y) = conv_network(), batch()
    rule = LayerwisePerturbation(network, perturb=perturb, steps=400, norm=1e-4, normalise=False)
    parts = []
    for _ in range(30):
        rule.zero_grad()
        rule.backward(x, y)
        parts.append(gradient_of(rule))
    parts, expected = torch.stack(parts), true_gradient(network, x, y)
    error = parts.std(dim=0) / len(parts) ** 0.5
    assert ((parts.mean(dim=0) - expected).abs() < 5 * error + 1e-4).all()
    assert error.norm() < 0.2 * expected.norm()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_its_expected_length_is_the_gradients(steps, monkeypatch):
    """Of a layer's weights, where the cost is linear: the mean of the square over all signs that there are."""
    network = nn.Sequential(nn.Linear(3, 1, bias=False)).double()
    x = torch.tensor([[1.0, -2.0, 0.5]]).double()
    rule = LayerwisePerturbation(network, lambda z, _: z[:, 0], perturb="weights", steps=steps)
    drawn = itertools.product((0, 1), repeat=steps * 3)
    monkeypatch.setattr(
        torch, "randint", lambda _high, shape, **_: torch.tensor(next(drawn)).to(torch.int8).view(shape)
    )
    squares = []
    for _ in range(2 ** (steps * 3)):
        rule.zero_grad()
        rule.backward(x, x[:, 0])
        squares.append(gradient_of(rule).square().sum())
    assert next(drawn, None) is None
    torch.testing.assert_close(torch.stack(squares).mean(), x.square().sum())


def test_nodes_of_a_sample_hear_their_own_sample():
    """A sample whose loss does not move has no signal, whatever the others do."""
    network, (x, _), y = conv_network(), batch(2), torch.tensor([1.0, 0.0]).double()
    rule = LayerwisePerturbation(network, lambda z, y: y * z.square().sum(dim=1), steps=5)
    torch.manual_seed(3)
    rule.backward(x, y)
    first = gradient_of(rule)
    other = x.clone()
    other[1] = 7.0
    rule.zero_grad()
    torch.manual_seed(3)
    rule.backward(other, y)
    torch.testing.assert_close(gradient_of(rule), first)


def test_how_many_are_evaluated_at_once_changes_nothing():
    network, (x, y) = conv_network(), batch()
    for perturb in ("weights", "nodes"):
        found = []
        for at_once in (1, 12, 10_000):
            rule = LayerwisePerturbation(network, perturb=perturb, steps=6, at_once=at_once)
            rule.zero_grad()
            torch.manual_seed(4)
            rule.backward(x, y)
            found.append(gradient_of(rule))
        torch.testing.assert_close(found[0], found[1])
        torch.testing.assert_close(found[0], found[2])


def test_activations_in_place_are_as_others():
    x, y = batch()
    found = []
    for inplace in (False, True):
        network = conv_network()
        network[4] = nn.ReLU(inplace=inplace)
        network[0][1] = nn.ReLU(inplace=inplace)
        rule = LayerwisePerturbation(network, steps=6)
        torch.manual_seed(4)
        rule.backward(x, y)
        found.append(gradient_of(rule))
    torch.testing.assert_close(*found)


def test_frozen_layers_keep_none_and_noise_reaches_the_costs():
    network, (x, y) = conv_network(), batch()
    network[3].weight.requires_grad_(False)
    rule = LayerwisePerturbation(network, perturb="weights", steps=50)
    rule.backward(x, y)
    assert network[3].weight.grad is None
    assert network[3].bias.grad.norm() > 0
    quiet = gradient_norm(network, cost_noise=0.0)
    assert gradient_norm(network, cost_noise=1.0) > 20 * quiet


def gradient_norm(network, **options):
    x, y = batch()
    rule = LayerwisePerturbation(network, steps=50, **options)
    rule.zero_grad()
    rule.backward(x, y)
    return float(network[5].weight.grad.norm())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(4, 3), r"nn\.Sequential, not Linear"),
        (nn.Sequential(nn.Flatten()), "nothing to perturb"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), r"layer 1 \(BatchNorm1d\) mixes samples"),
        (nn.Sequential(nn.Conv1d(2, 3, 1), nn.InstanceNorm1d(3, track_running_stats=True)), "move its statistics"),
        (nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1)), r"layer 1 \(Dropout\)"),
        (nn.Sequential(nn.Linear(4, 3), nn.RReLU()), r"layer 1 \(RReLU\)"),
        (nn.Sequential(nn.TransformerEncoderLayer(4, 2, dropout=0.5)), r"\(MultiheadAttention\)"),
    ],
)
def test_what_it_cannot_train_is_told(network, message):
    with pytest.raises(UnsupportedNetworkError, match=message):
        LayerwisePerturbation(network)


@pytest.mark.parametrize(
    "options", [{"perturb": "all"}, {"steps": 0}, {"norm": 0.0}, {"at_once": 0}, {"cost_noise": -1}]
)
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(UserError, match=r"must be|at least"):
        LayerwisePerturbation(conv_network(), **options)


def test_bad_losses_and_labels_are_refused():
    x, y = batch()
    with pytest.raises(UserError, match="one number a sample"):
        LayerwisePerturbation(conv_network(), F.cross_entropy).backward(x, y)
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.2"):
        LayerwisePerturbation(conv_network()).backward(x, y + 1)
    rule = LayerwisePerturbation(conv_network())
    with pytest.raises(NonFiniteError, match="the input"):
        rule.backward(x * torch.nan, y)
    assert all(p.grad is None for p in rule.network.parameters())


class Residual(nn.Sequential):
    """A sequence with a path beside it."""

    def forward(self, x):
        return x + super().forward(x)


class InPlace(nn.Module):
    """Works on its input in place."""

    def __init__(self):
        super().__init__()
        self.activation, self.linear = nn.ReLU(inplace=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(self.activation(x))


@pytest.mark.parametrize("perturb", ["weights", "nodes"])
@pytest.mark.parametrize("middle", [Residual, InPlace])
def test_blocks_of_several_layers_are_one_layer(middle, perturb):
    torch.manual_seed(0)
    block = InPlace() if middle is InPlace else Residual(nn.Linear(4, 4), nn.Tanh())
    network = nn.Sequential(nn.Linear(3, 4), block, nn.Linear(4, 3)).double()
    x, y = torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 0])
    rule = LayerwisePerturbation(network, perturb=perturb, steps=4000, norm=1e-4, normalise=False)
    loss = rule.backward(x, y)
    torch.testing.assert_close(loss, F.cross_entropy(network(x), y).detach())
    expected = true_gradient(network, x, y)
    assert torch.cosine_similarity(gradient_of(rule), expected, dim=0) > 0.97


def test_noise_of_reads_is_drawn_for_each_step_and_sample():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    x = torch.randn(2, 2).double()
    rule = LayerwisePerturbation(network, lambda z, _: 0 * z[:, 0], steps=1, cost_noise=1.0, normalise=False)
    found = []
    for _ in range(400):
        rule.zero_grad()
        torch.manual_seed(len(found))
        rule.backward(x, x[:, 0])
        found.append(network[0].weight.grad.clone())
    spread = torch.cat(found).std(dim=0)
    expected = x.square().sum(dim=0).sqrt() / (2 * rule.norm)  # of independent noise; a common one adds up with signs
    torch.testing.assert_close(spread, expected, rtol=0.15, atol=0)


@pytest.mark.parametrize("shared", [nn.Tanh(), nn.Linear(3, 3, bias=False)], ids=["activation", "layer"])
def test_a_module_that_stands_in_two_places_is_called_in_both(shared):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), shared, nn.Sequential(nn.Linear(3, 3), shared), shared).double()
    x, y = torch.randn(5, 4).double(), torch.arange(5) % 3
    loss = LayerwisePerturbation(network, steps=1).backward(x, y)
    torch.testing.assert_close(loss, F.cross_entropy(network(x), y))


@pytest.mark.parametrize("perturb", ["weights", "nodes"])
def test_layers_that_mix_samples_are_refused(perturb, one_line):
    for norm in (nn.BatchNorm1d(8), QuaternionBatchNorm1d(8)):
        network = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 3))
        with one_line(UnsupportedNetworkError, "layer 1 (", "mixes samples"):
            LayerwisePerturbation(network, perturb=perturb)
