"""Angles and norm ratios on updates whose geometry is known beforehand, and that measuring leaves no trace."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.measure import Alignment, alignment
from beyondprop.rule import Rule
from beyondprop.rules.local.noprop import NoPropDT
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.direct_feedback import DFA
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment, KolenPollack


def batch(count=7, inputs=5, classes=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, inputs, generator=generator), torch.randint(classes, (count,), generator=generator)


def noisy_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


class Turned(Backprop):
    """Writes back-propagation's gradient turned by a known angle and stretched by a known factor, tensor by tensor."""

    def __init__(self, network, degrees, factor):
        super().__init__(network)
        self.degrees, self.factor = degrees, factor

    def assign_credit(self, x, y, phase):
        loss = super().assign_credit(x, y, phase)
        for parameter in self.network.parameters():
            g = parameter.grad
            across = torch.randn_like(g)
            across -= (across * g).sum() / (g * g).sum() * g  # Gram and Schmidt
            across *= g.norm() / across.norm()
            angle = math.radians(self.degrees)
            parameter.grad = self.factor * (math.cos(angle) * g + math.sin(angle) * across)
        return loss


def test_backprop_is_aligned_with_itself_also_through_dropout_and_batch_norm():
    found = alignment(Backprop(noisy_network()), *batch())
    assert list(found) == ["network.0", "network.1", "network.4", "network.6"]
    assert set(found.values()) == {Alignment(0.0, 1.0)}


@pytest.mark.parametrize(("degrees", "factor"), [(30, 2.0), (90, 0.1), (150, 1.0), (180, 5.0)])
def test_known_angle_and_factor_are_found(degrees, factor):
    rule = Turned(network().double(), degrees, factor)
    x, y = batch()
    for by, count in (("layer", 3), ("parameter", 6)):
        found = alignment(rule, x.double(), y, by=by)
        assert len(found) == count
        for each in found.values():
            assert each.angle == pytest.approx(degrees, abs=1e-5)
            assert each.norm_ratio == pytest.approx(factor, rel=1e-9)


def test_a_layer_is_one_vector_of_all_its_parameters():
    """Weight unchanged and bias tripled: the angle is that of (|w|, |b|) and (|w|, 3 |b|) in the plane."""

    class BiasTripled(Backprop):
        def assign_credit(self, x, y, phase):
            loss = super().assign_credit(x, y, phase)
            self.network.bias.grad *= 3
            return loss

    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    x, y = batch()
    F.cross_entropy(layer(x.double()), y).backward()
    w, b = layer.weight.grad.norm().item(), layer.bias.grad.norm().item()
    found = alignment(BiasTripled(layer), x.double(), y)["network"]
    assert found.angle == pytest.approx(math.degrees(math.atan2(3 * b, w) - math.atan2(b, w)), abs=1e-6)
    assert found.norm_ratio == pytest.approx(math.hypot(w, 3 * b) / math.hypot(w, b))


def test_feedback_alignment_with_the_weights_as_feedback_is_backprop():
    rule = FeedbackAlignment.for_classifier(network(), batch()[0], 3)
    x, y = batch()
    assert alignment(rule, x, y)["network.0"].angle > 10
    for name in rule.feedback:
        rule.feedback[name].copy_(rule.network.get_submodule(name).weight.detach())
    for each in alignment(rule, x, y).values():
        assert each.angle == pytest.approx(0, abs=1e-2)
        assert each.norm_ratio == pytest.approx(1, rel=1e-5)


def test_two_layers_of_direct_feedback_by_hand():
    torch.manual_seed(0)
    first, last = nn.Linear(5, 4, bias=False).double(), nn.Linear(4, 3, bias=False).double()
    x, y = batch()
    x = x.double()
    rule = DFA(nn.Sequential(first, nn.Tanh(), last), x)
    with torch.no_grad():
        h = torch.tanh(x @ first.weight.t())
        e = (torch.softmax(h @ last.weight.t(), 1) - F.one_hot(y, 3)) / len(x)
        direct = ((e @ rule.feedback["0"]) * (1 - h * h)).t() @ x
        true = ((e @ last.weight) * (1 - h * h)).t() @ x
        cosine = (direct * true).sum() / direct.norm() / true.norm()
    found = alignment(rule, x, y)
    assert found["network.0"].angle == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-6)
    assert found["network.0"].norm_ratio == pytest.approx((direct.norm() / true.norm()).item())
    assert found["network.2"].angle == pytest.approx(0, abs=1e-5)


def test_frozen_parameters_are_left_out():
    net = network()
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    found = alignment(Backprop(net), *batch(), by="parameter")
    assert list(found) == ["network.2.weight", "network.4.weight", "network.4.bias"]


def test_each_phase_shows_what_it_trains():
    class Halves(Backprop):
        phases = ("first", "last")

        def assign_credit(self, x, y, phase):
            loss = super().assign_credit(x, y, phase)
            for layer in (self.network[2], self.network[4]) if phase == "first" else (self.network[0],):
                for parameter in layer.parameters():
                    parameter.grad = None
            return loss

    rule = Halves(network())
    assert list(alignment(rule, *batch(), "first")) == ["network.0"]
    assert list(alignment(rule, *batch(), "last")) == ["network.2", "network.4"]


def test_what_the_prediction_does_not_reach_is_left_out():
    rule = KolenPollack.for_classifier(network(), batch()[0], 3)
    assert any(name.startswith("feedback") for name, _ in rule.named_parameters())
    assert list(alignment(rule, *batch())) == ["network.0", "network.2", "network.4"]


def test_a_rule_without_a_loss_is_compared_by_its_own_prediction():
    class Doubled(Rule):
        """The network's scores are doubled to predict; the update is the plain gradient of that."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def for_classifier(self, *_):
            raise NotImplementedError

        def assign_credit(self, x, y, phase):
            loss = F.cross_entropy(2 * self.network(x), y)
            loss.backward()
            return loss

        def forward(self, x):
            return 2 * self.network(x)

    assert set(alignment(Doubled(network()), *batch()).values()) == {Alignment(0.0, 1.0)}

    class NotDifferentiated(Doubled):
        def forward(self, x):
            return super().forward(x).detach()

    assert alignment(NotDifferentiated(network()), *batch()) == {}


def test_no_angle_where_there_is_no_direction():
    class Silent(Backprop):
        def assign_credit(self, x, y, phase):
            loss = super().assign_credit(x, y, phase)
            self.network[0].weight.grad.zero_()
            self.network[0].bias.grad.fill_(math.nan)
            return loss

    net = network()
    found = alignment(Silent(net), *batch(), by="parameter")
    assert found["network.0.weight"] == Alignment(None, 0.0)
    assert found["network.0.bias"] == Alignment(None, None)
    with torch.no_grad():
        net[4].weight.zero_()  # back-propagation's gradient before the last layer is zero
    assert alignment(Backprop(net), *batch())["network.0"] == Alignment(None, None)


def test_tiny_updates_have_an_angle_too():
    rule = Turned(network().double(), 60, 1e-120)
    x, y = batch()
    assert alignment(rule, x.double(), y)["network.2"].angle == pytest.approx(60, abs=1e-5)


def test_labels_may_be_of_any_integer_type():
    x, y = batch()
    rule = Backprop(network())
    assert alignment(rule, x, y.to(torch.uint8)) == alignment(rule, x, y)


class Restless(Backprop):
    """Moves all that a rule may move: its weights, a counter in place, a buffer by another tensor, the generator."""

    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("trace", torch.zeros(3), persistent=False)

    def assign_credit(self, x, y, phase):
        self.calls += 1
        self.trace = self.trace + torch.rand(3)
        with torch.no_grad():
            self.network[0].weight += 0.1 * torch.rand(())
        return super().assign_credit(x, y, phase)


@pytest.mark.parametrize("make", [Restless, Backprop, NoPropDT], ids=lambda kind: kind.__name__)
def test_nothing_is_left_behind(make):
    x, y = batch()
    rule = make.for_classifier(noisy_network(), x, 3)
    rule.backward(x, y)
    rule.get_parameter(next(name for name, _ in rule.named_parameters())).grad = None
    everything = lambda: {**dict(rule.named_parameters()), **dict(rule.named_buffers())}  # noqa: E731
    objects, before = everything(), copy.deepcopy(everything())
    gradients = {name: p.grad for name, p in rule.named_parameters()}
    values = copy.deepcopy(gradients)
    state = torch.get_rng_state()
    alignment(rule, x, y)
    assert torch.equal(torch.get_rng_state(), state)
    after = everything()
    assert all(after[name] is objects[name] and torch.equal(after[name], before[name]) for name in before)
    for name, parameter in rule.named_parameters():
        assert parameter.grad is gradients[name]
        assert parameter.grad is None or torch.equal(parameter.grad, values[name])
    assert all(module.training for module in rule.modules())


def test_failure_leaves_nothing_behind_either():
    rule = Restless(network())
    x, y = batch()
    state = torch.get_rng_state()
    weight = rule.network[0].weight.detach().clone()
    with pytest.raises(ValueError, match="NaN"):
        alignment(rule, x * math.nan, y)
    assert torch.equal(rule.network[0].weight, weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert rule.calls == 0
