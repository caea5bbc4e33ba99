"""BPC in a network: frozen and other layers, memory formats, work in place, optimizers, and what is refused."""

import copy
import math

import pytest
import torch
from bpc_problems import Quadratic, backward, problem
from torch import nn
from torch.nn import functional as F

from beyondprop import BPC, Backprop, ProxProp
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.recipes.classifiers import ClassifierSettings, make_optimizer
from beyondprop.training.assembly import make_scheduler


class Mixed(nn.Module):
    """Layers of every treatment: two that are projected, and others around and between them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.first = nn.Linear(6, 6)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.unused_by_call = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 5, bias=False)
        self.tied.weight = self.embedding.weight
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        h = self.norm(self.embedding(x))
        h = h + self.attention(h, h, h)[0]
        h = self.normed(torch.relu(self.first(h)))
        h = F.linear(h, self.unused_by_call.weight, self.unused_by_call.bias)
        return self.last(self.tied(h).mean(dim=1))


def test_other_layers_have_their_ordinary_gradient():
    torch.manual_seed(7)
    network = Mixed()
    x, y = torch.randint(5, (4, 3)), torch.randn(4, 3)
    rule = BPC(network)
    assert {group["name"]: len(group["params"]) for group in rule.parameter_groups()} == {"affine": 6, "other": 10}
    found, gradient = backward(network, x, y), backward(network, x, y, Backprop)
    differ = {name.split(".")[0] for name in found if not torch.allclose(found[name], gradient[name], atol=1e-6)}
    assert differ == {"first", "last"}


def test_frozen_parameters_leave_the_rest_its_own_projection():
    network, x, y = problem()
    delta = (network(x) - y).detach()
    network.bias.requires_grad_(False)
    found = backward(network, x, y, regularisation=1e-9)
    assert found["bias"] is None
    torch.testing.assert_close(x @ found["weight"].T, delta, rtol=1e-6, atol=1e-7)
    network.bias.requires_grad_(True)
    network.weight.requires_grad_(False)
    found = backward(network, x, y, regularisation=0.5)
    torch.testing.assert_close(found["bias"], delta.sum(dim=0) / (7 + 0.5))
    network.bias.requires_grad_(False)
    assert backward(network, x, y) == {"weight": None, "bias": None}


def test_signals_pass_a_frozen_layer():
    torch.manual_seed(8)
    network = nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 3)).double()
    _, x, y = problem()
    all_trained = backward(network, x, y)
    network[1].requires_grad_(False)
    found = backward(network, x, y)
    torch.testing.assert_close(found["0.weight"], all_trained["0.weight"])
    assert found["1.weight"] is None


def test_it_stands_under_every_optimizer():
    """`.grad` is where momentum and normalisation find it: two steps of each against the formulas on g."""
    for kind, options in (
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.RMSprop, {}),
        (torch.optim.Adam, {}),
    ):
        network, x, y = problem()
        mirror = copy.deepcopy(network)
        rule = BPC(network, Quadratic())
        optimizer, by_hand = kind(rule.parameters(), lr=0.1, **options), kind(mirror.parameters(), lr=0.1, **options)
        for _ in range(2):
            optimizer.zero_grad()
            rule.backward(x, y)
            delta = (mirror(x) - y).detach()
            rows = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], dim=1)
            g = torch.linalg.solve(rows.T @ rows + torch.eye(13, dtype=torch.float64), rows.T @ delta).T
            mirror.weight.grad, mirror.bias.grad = g[:, :-1].clone(), g[:, -1].clone()
            optimizer.step()
            by_hand.step()
        torch.testing.assert_close(network.weight, mirror.weight)
        torch.testing.assert_close(network.bias, mirror.bias)


class Overwriting(nn.Module):
    """What the first layer reads is changed when it has been read."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = x.clone()
        scores = self.last(torch.tanh(self.first(h)))
        h.mul_(2)
        return scores


@pytest.mark.parametrize("kind", [BPC, ProxProp])
def test_an_input_changed_in_place_is_refused_by_the_layers_name(kind, one_line):
    network, x, y = Overwriting(), torch.randn(5, 4), torch.arange(5) % 3
    with one_line(UserError, "layer first (Linear)"):
        kind(network).backward(x, y)
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        F.cross_entropy(network(x), y).backward()
    network.first.weight.requires_grad_(False)  # then nothing is made from the input, and autograd takes it too
    kind(network).backward(x, y)
    F.cross_entropy(network(x), y).backward()


def test_channels_last_changes_nothing():
    torch.manual_seed(11)
    network = nn.Conv2d(4, 8, 3, padding=1)
    x, y = torch.randn(3, 4, 6, 6), torch.randn(3, 8, 6, 6)
    plain = backward(network, x, y)
    network.to(memory_format=torch.channels_last)
    found = backward(network, x.to(memory_format=torch.channels_last), y)
    torch.testing.assert_close(found["weight"], plain["weight"], rtol=1e-4, atol=1e-6)
    assert found["weight"].is_contiguous(memory_format=torch.channels_last)


def test_activations_in_place_change_nothing():
    torch.manual_seed(12)
    found = []
    for inplace in (False, True):
        torch.manual_seed(12)
        network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(12, 3))
        found.append(backward(network, torch.randn(4, 2, 6), torch.randn(4, 3)))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    "network",
    [nn.LSTM(4, 3), nn.Embedding(4, 3), nn.ConvTranspose2d(3, 2, 2), nn.Tanh()],
    ids=lambda network: type(network).__name__,
)
def test_networks_it_would_only_back_propagate_are_refused(network):
    with pytest.raises(UnsupportedNetworkError, match=rf"{type(network).__name__}.*use back-propagation"):
        BPC(network)


@pytest.mark.parametrize("options", [{"form": "both"}, {"regularisation": 0.0}, {"regularisation": math.nan}])
def test_options_out_of_range_are_refused(options, one_line):
    with one_line(UserError, next(iter(options))):
        BPC(nn.Linear(4, 3), **options)


@pytest.mark.parametrize("name", ["sgd", "nag", "rmsprop", "adam"])
def test_a_recipe_can_name_the_optimizer(name):
    """And the one-cycle schedule gives momentum to none that has none."""
    rule = BPC(nn.Linear(4, 3))
    settings = ClassifierSettings(optimizer=name, learning_rate=0.5, weight_decay=0.25, momentum=0.7)
    optimizer = make_optimizer(rule, settings)
    kinds = {"sgd": torch.optim.SGD, "nag": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
    assert type(optimizer) is kinds[name]
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert (group.get("nesterov", False), group.get("momentum", 0)) == ((True, 0.7) if name == "nag" else (False, 0))
    make_scheduler(optimizer, "one-cycle", 10)
    assert (group.get("momentum", 0) > 0) == (name == "nag")
