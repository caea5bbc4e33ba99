"""Difference target propagation in training: stages, frozen layers, any layers, autocast, and what stops it."""

import math

import pytest
import torch
from target_variants import VARIANTS, batch, make, perceptron
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rules.signals.direct_target_propagation import DDTP
from beyondprop.rules.signals.target_propagation import DTP


@pytest.mark.parametrize("variant", VARIANTS)
def test_feedback_alone_tells_unusable_data_as_ever(variant):
    rule, (x, y) = make(variant, pretraining=1), batch()
    rule.stage = "feedback"
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.2"):
        rule.backward(x, y + 1)
    with pytest.raises(NonFiniteError, match="the input"):
        rule.backward(x * math.nan, y)


@pytest.mark.parametrize("variant", VARIANTS)
def test_several_feedback_steps_come_first(variant):
    rule, (x, y) = make(variant, feedback_steps=3), batch()
    assert rule.phases == ("feedback", "feedback", None)
    rule.backward(x, y, "feedback")
    assert all(p.grad is None for p in rule.network.parameters())
    assert all(p.grad is not None for p in rule.feedback.parameters())
    rule.zero_grad()
    rule.backward(x, y)
    assert all(p.grad is not None for p in rule.parameters())


def test_pretraining_moves_the_feedback_alone_before_all_epochs():
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    rule, (x, y) = make("dtp", network, pretraining=2, extra_epochs=1), batch()
    first = [(1, "feedback"), (2, "feedback")]
    assert rule.passes(2) == [*first, (3, "both"), (3, "feedback"), (4, "both"), (4, "feedback")]
    assert make("dtp").passes(2) == [(1, None), (2, None)]
    rule.backward(x, y)  # in a loop that sets no stage
    assert all(p.grad is not None for p in network.parameters())
    rule.zero_grad()
    network[1].reset_running_stats()
    rule.stage = "feedback"
    rule.backward(x, y)
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in rule.feedback.parameters())
    assert network[1].num_batches_tracked == 0
    rule.stage = "both"
    rule.backward(x, y)
    assert all(p.grad is not None for p in network.parameters())
    assert network[1].num_batches_tracked == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_layer_alone_learns_as_it_does_among_all(variant):
    x, y = batch()
    found = []
    for frozen in (False, True):
        rule = make(variant)
        list(rule.network)[2].requires_grad_(not frozen)
        list(rule.network)[4].requires_grad_(not frozen)
        rule.backward(x, y)
        found.append(rule.network[0].weight.grad)
        assert (rule.network[2].weight.grad is None) == frozen
        direct_of_frozen = isinstance(rule, DDTP) and rule.feedback["4"].grad is None
        assert direct_of_frozen == (frozen and isinstance(rule, DDTP))
    assert torch.equal(*found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_convolutions_and_pools(variant):
    """All parameters learn, through overlapping pools, means, flattening and dropout."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3),
        nn.ELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )
    x, y = torch.randn(6, 1, 9, 9), torch.arange(6) % 3
    kind, options = VARIANTS[variant]
    rule = kind(network, x, **options)
    rule.backward(x, y)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in rule.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_keeps_the_directions(variant):
    """Differences are taken in float32: under bfloat16 they would drown in rounding."""
    torch.manual_seed(0)
    network, x, y = perceptron(8, 32, 32, 32, 3).float(), torch.randn(64, 8), torch.arange(64) % 3
    kind, options = VARIANTS[variant]
    rule = kind(network, x, target_step=0.01, **options)
    found = []
    for enabled in (False, True):
        rule.zero_grad()
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rule.backward(x, y)
        found.append([p.grad.flatten() for p in rule.parameters() if p.grad is not None])
    for plain, cast in zip(*found, strict=True):
        if plain.numel() > 200:
            assert F.cosine_similarity(plain, cast, dim=0) > 0.97


def test_groups_have_settings_of_their_own():
    rule = make("linear", feedback_rate=0.02, feedback_decay=0.3)
    network, feedback = torch.optim.AdamW(rule.parameter_groups(), lr=1e-3, weight_decay=0.1).param_groups
    assert (network["lr"], network["weight_decay"]) == (1e-3, 0.1)
    assert (feedback["lr"], feedback["weight_decay"]) == (0.02, 0.3)
    assert "lr" not in make("linear").parameter_groups()[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_feedback_that_has_diverged_stops(variant):
    """In DTP by its own loss; in direct feedback by what the perturbed units give."""
    rule, (x, y) = make(variant), batch()
    if isinstance(rule, DTP):
        rule.feedback[0].layer.weight.data[0, 0] = torch.nan
    else:
        rule.noise = math.inf
    with pytest.raises(NonFiniteError, match=r"feedback|perturbed"):
        rule.backward(x, y)


def test_a_learned_activation_is_the_networks_and_stands_in_one_place():
    """Feedback uses it as it is; it learns from the network's gradient alone."""
    rule, (x, y) = make("rhl", perceptron(4, 7, 6, 3, activation=nn.PReLU)), batch()
    assert [name for name, _ in rule.named_parameters() if name.startswith("activations")] == []
    rule.backward(x, y)
    groups = [p for group in rule.parameter_groups() for p in group["params"]]
    assert all(p.grad is not None for p in groups)
    own = [p.grad.clone() for p in rule.network.parameters()]
    rule.zero_grad()
    rule._learns = lambda index: False
    rule.backward(x, y)
    assert all(torch.equal(a, p.grad) for a, p in zip(own, rule.network.parameters(), strict=True))
    before = rule.targets(x, y)["0"]
    rule.network[1].weight.data.fill_(-1.5)
    clean = rule.chain.run(x, training=False)
    lifted = torch.tanh(clean.value(-1) @ rule.spread + rule.shift)
    summed = lifted @ rule.feedback["0"] + rule.feedback["0 bias"]
    torch.testing.assert_close(rule._back(0, lifted), F.prelu(summed, torch.tensor([-1.5]).double()))
    assert not torch.equal(before, rule.targets(x, y)["0"])


@pytest.mark.parametrize("variant", ["linear", "control"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_target_that_is_not_finite_names_its_layer(variant, value):
    rule, (x, y) = make(variant), batch()
    rule.feedback["2"].data[0, 0] = value
    rule.feedback["2"].requires_grad_(False)  # so that its own loss does not stop it
    with pytest.raises(NonFiniteError, match="target of layer 2 holds NaN"):
        rule.backward(x, y)
    assert all(p.grad is None for p in rule.network.parameters())


def test_large_finite_targets_are_no_error():
    steps = [torch.full((2, width), 1e308, dtype=torch.float64) for width in (7, 6, 5)]  # whose sum is infinite
    assert make("linear").finite(steps) is steps


@pytest.mark.parametrize(
    ("variant", "options", "told"),
    [
        ("dtp", {"noise": 0.0}, "noise must be a number above 0"),
        ("dtp", {"noise": math.inf}, "noise must be a number above 0"),
        ("dtp", {"feedback_steps": 0}, "feedback_steps must be a whole number of at least 1"),
        ("dtpdr", {"feedback_steps": 1.5}, "feedback_steps must be a whole number of at least 1"),
        ("dtp", {"pretraining": -1}, "pretraining must be a whole number"),
        ("dtp", {"extra_epochs": 0.5}, "extra_epochs must be a whole number"),
        ("linear", {"feedback_rate": -1}, "feedback_rate must be a number of at least 0"),
        ("linear", {"feedback_decay": -1}, "feedback_decay must be a number of at least 0"),
        ("linear", {"target_step": math.inf}, "target_step must be a number above 0"),
        ("linear", {"hidden": 2.5}, "hidden must be a whole number of at least 1"),
        ("linear", {"feedback": "learned"}, "feedback must be 'linear', 'rhl' or 'control'"),
        ("linear", {"hidden": 0}, "hidden must be a whole number of at least 1"),
    ],
)
def test_options_out_of_range_are_refused(variant, options, told):
    with pytest.raises(UserError, match=told):
        VARIANTS[variant][0](perceptron(4, 5, 3), torch.zeros(1, 4).double(), **options)
