"""BPC under any loss: positions, sums and ignored classes, its count of terms, and parameters of its own."""

import math

import pytest
import torch
from bpc_problems import Quadratic, problem
from torch import nn
from torch.nn import functional as F

from beyondprop import BPC, ProxProp, SemiImplicit
from beyondprop.errors import UserError


def tagger(seed=13):
    """Scores and class indices for every position; fewer positions than inputs, so that all can move as meant."""
    torch.manual_seed(seed)
    network = nn.Linear(40, 5).double()
    return network, torch.randn(4, 6, 40, dtype=torch.float64), torch.randint(5, (4, 6))


def over_positions(**options):
    """A cross-entropy with the classes last, whose options nobody can see from outside."""
    return lambda scores, y: F.cross_entropy(scores.transpose(1, 2), y, **options)


class ClassesLast(nn.CrossEntropyLoss):
    def forward(self, scores, y):
        return super().forward(scores.transpose(1, 2), y)


@pytest.mark.parametrize(
    ("loss", "ignored", "terms"),
    [
        (over_positions(), None, None),
        (ClassesLast(reduction="sum"), None, None),
        (over_positions(reduction="sum"), None, lambda _y: 1),
        (ClassesLast(ignore_index=2), 2, None),
        (over_positions(ignore_index=2), 2, lambda y: (y != 2).sum()),
        (ClassesLast(ignore_index=2, reduction="sum"), 2, None),
    ],
    ids=["mean", "sum", "sum by function", "ignored", "ignored by function", "ignored, sum"],
)
def test_every_position_of_a_tagger_moves_by_its_own_delta(loss, ignored, terms):
    network, x, y = tagger()
    scores = network(x).detach()
    meant = scores.softmax(dim=2) - F.one_hot(y, 5)
    if ignored is not None:
        assert 0 < (y == ignored).sum() < y.numel()
        meant[y == ignored] = 0
    rule = BPC(network, loss, regularisation=1e-9, terms=terms)
    rule.backward(x, y)
    moved = x @ network.weight.grad.T + network.bias.grad
    torch.testing.assert_close(moved, meant, rtol=1e-6, atol=1e-7)


def test_integers_of_the_scores_shape_are_no_class_indices():
    """Several labels a sample: its own loss is over all of them."""
    network, x, _ = problem()
    y = torch.randint(2, (7, 3))
    meant = (network(x).sigmoid() - y).detach()
    rule = BPC(
        network, lambda scores, y: 3 * F.binary_cross_entropy_with_logits(scores, y.double()), regularisation=1e-9
    )
    rule.backward(x, y)
    torch.testing.assert_close(x @ network.weight.grad.T + network.bias.grad, meant, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [0, -3, math.nan, math.inf])
def test_a_count_of_terms_that_is_none_is_refused(count, one_line):
    network, x, y = problem()
    with one_line(UserError, "terms"):
        BPC(network, Quadratic(), terms=lambda _y: count).backward(x, y)


class Tempered(nn.Module):
    """A loss that learns."""

    def __init__(self):
        super().__init__()
        self.scale, self.unused = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, scores, y):
        return F.cross_entropy(self.scale * scores * self.frozen, y)


@pytest.mark.parametrize("kind", [BPC, ProxProp, SemiImplicit])
def test_a_losss_own_parameters_learn(kind):
    """By the gradient; where a step is implicit, by eta times the batch's own, over lambda + n."""
    torch.manual_seed(14)
    network, loss = nn.Linear(4, 3), Tempered()
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    gradient = torch.autograd.grad(loss(network(x), y), loss.scale)[0]
    rule = kind(network, loss, **({"step": 0.5, "regularisation": 2.0} if kind is SemiImplicit else {}))
    rule.backward(x, y)
    torch.testing.assert_close(loss.scale.grad, gradient * (0.5 * 6 / (2 + 6) if kind is SemiImplicit else 1))
    assert loss.unused.grad is None
    assert loss.frozen.grad is None
    listed = {id(p) for group in rule.parameter_groups() for p in group["params"]}
    assert {id(loss.scale), id(network.weight), id(network.bias)} <= listed
