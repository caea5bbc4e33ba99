"""The fast ways of direct transport give what the general ones give."""

import copy

import pytest
import torch
from signal_networks import NETWORKS, gradients, make
from torch import nn

from beyondprop.networks.classifiers import convolutional
from beyondprop.rules.signals.direct import Direct, Point
from beyondprop.rules.signals.direct_feedback import DFA, SignDFA
from beyondprop.rules.signals.target_projection import DRTP, TPSGD


def taught(rule, x, y):
    rule.zero_grad()
    torch.manual_seed(1)
    rule.backward(x, y)
    return gradients(rule.network)


def points_of(network, x):
    found = []
    with Direct(network, x).watch(found.append):
        network(x)
    return {point.name: point for point in found}


@pytest.mark.parametrize("rule_class", [DFA, DRTP])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_point_of_its_own_is_taught_as_one_among_others(name, rule_class, monkeypatch):
    network, x, y = make(name)
    rule = rule_class.for_classifier(network, x, 3)
    buffers = copy.deepcopy(network.state_dict())
    fast = taught(rule, x, y)
    network.load_state_dict(buffers)
    teach = Point.teach
    monkeypatch.setattr(Point, "teach", lambda point, signal: teach(point._replace(alone=False), signal))
    for parameter, gradient in taught(rule, x, y).items():
        torch.testing.assert_close(fast[parameter], gradient, rtol=0, atol=1e-12, msg=parameter)


def test_only_points_that_share_nothing_are_taught_in_one_go():
    plain, x, _ = make("perceptron")
    assert [point.alone for point in points_of(plain, x).values()] == [True, True]
    residual, x, _ = make("residual")
    alone = {name: point.alone for name, point in points_of(residual, x).items()}
    assert alone == {"0": True, "1.first": True, "1.second": False, "2.first": True, "2.second": False}


class Adds(nn.Module):
    """A skip connection that is added to an activation, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.act = nn.GELU()  # it keeps its input for backward, and so its output may change

    def forward(self, x):
        skip = self.act(self.first(x))
        h = self.act(self.second(skip))
        h = h.add_(skip) if self.in_place else h + skip
        return self.head(h)


@pytest.mark.parametrize("rule_class", [DFA, DRTP, TPSGD])
def test_what_happens_in_place_behind_an_activation_changes_nothing(rule_class):
    torch.manual_seed(0)
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    found = []
    for in_place in (False, True):
        torch.manual_seed(0)
        found.append(taught(rule_class.for_classifier(Adds(in_place), x, 3), x, y))
    for parameter, gradient in found[0].items():
        torch.testing.assert_close(found[1][parameter], gradient, msg=parameter)


@pytest.mark.parametrize("rule_class", [DFA, SignDFA, DRTP, TPSGD])
def test_channels_last_changes_nothing_but_the_order_in_memory(rule_class):
    torch.manual_seed(0)
    x, y = torch.randn(3, 2, 8, 8), torch.randint(5, (3,))
    rule = rule_class.for_classifier(convolutional((2, 8, 8), 5, hidden=7), x, 5).double()
    x = x.double()
    expected = taught(rule, x, y)
    rule.to(memory_format=torch.channels_last)
    for parameter, gradient in taught(rule, x.to(memory_format=torch.channels_last), y).items():
        torch.testing.assert_close(gradient, expected[parameter], msg=parameter)
