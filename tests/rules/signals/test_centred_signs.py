"""SignDFA's own variation: the signs' mean over the classes is taken out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.catalogue import find_recipe
from beyondprop.rules.signals.direct_feedback import DFA, SignDFA


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator), torch.randint(5, (6,), generator=generator)


def make(**options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))
    return SignDFA(network, torch.zeros(1, 4), **options)


def sent(rule, x, y):
    """What goes to the hidden layers."""
    signals = []
    original = rule.signal_from
    rule.signal_from = lambda error: signals.append(original(error)) or signals[-1]
    rule.backward(x, y)
    return signals[0]


def test_signals_sum_to_zero_over_the_classes(batch):
    torch.testing.assert_close(sent(make(centred=True), *batch).sum(dim=1), torch.zeros(6))
    torch.testing.assert_close(sent(make(), *batch).sum(dim=1), torch.full((6,), 3 / 6))  # 4 signs up, 1 down


def test_it_is_the_sign_but_for_a_part_common_to_the_classes(batch):
    difference = sent(make(), *batch) - sent(make(centred=True), *batch)
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 5))


def test_for_cross_entropy_it_is_the_centred_target(batch):
    x, y = batch
    torch.testing.assert_close(sent(make(centred=True), x, y), 2 * (1 / 5 - F.one_hot(y, 5)) / 6)


def test_hidden_gradient_by_hand(batch):
    x, y = batch
    rule = make(centred=True)
    rule.backward(x, y)
    h = torch.tanh(rule.network[0](x))
    delta = (2 * (1 / 5 - F.one_hot(y, 5)) / 6 @ rule.feedback["0"]) * (1 - h * h)
    torch.testing.assert_close(rule.network[0].weight.grad, delta.T @ x)


def test_the_output_layer_learns_as_ever(batch):
    centred, plain = make(centred=True), make()
    for rule in (centred, plain):
        rule.backward(*batch)
    assert torch.equal(centred.network[2].weight.grad, plain.network[2].weight.grad)
    assert not torch.equal(centred.network[0].weight.grad, plain.network[0].weight.grad)


def test_recipes_choose_it_and_the_papers_do_not():
    from beyondprop import data

    splits = data.load("digits")
    for name, centred in (("sdfa/digits", False), ("sdfa/digits-centred", True)):
        recipe = find_recipe(name)
        rule = recipe.build(recipe.settings, splits).rule
        assert isinstance(rule, DFA)
        assert rule.centred is centred
