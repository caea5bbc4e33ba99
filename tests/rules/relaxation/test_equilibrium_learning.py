"""Learning by equilibrium propagation, in every form, of the user's own parameters."""

import copy

import pytest
import torch
from nudged_networks import READOUTS, make
from settling_networks import batch, convolutional, gradients, perceptron
from torch import nn
from torch.nn import functional as F

from beyondprop import data, evaluate
from beyondprop.layers.hard_sigmoid import HardSigmoid
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation


def test_it_trains_the_users_own_parameters():
    layers = convolutional()
    x, _ = batch(1, 14, 14)
    rule = EquilibriumPropagation.for_classifier(layers, x, 3)
    assert [id(p) for p in rule.parameters()] == [id(p) for p in layers.parameters()]
    assert rule.settling_network.layers is layers


def test_frozen_layers_stay_and_the_others_learn_as_before():
    layers = perceptron()
    x, y = batch(4)
    whole = gradients(make(layers, x), x, y)
    layers[2].requires_grad_(False)
    rule = make(layers, x)
    found = gradients(rule, x, y)
    assert layers[2].weight.grad is None
    assert all(torch.equal(a, b) for n, (a, b) in enumerate(zip(found, whole, strict=True)) if n not in (2, 3))


@pytest.mark.parametrize(
    ("options", "decay", "aligned"),
    [
        ({"nudging": "random-sign"}, 0.0, None),
        ({"feedback": "asymmetric", "same_update": True}, 5e-3, (0.9, 1.0)),
        ({"feedback": "asymmetric", "same_update": True, "nudging": "random-sign"}, 5e-3, (0.9, 1.0)),
        ({"feedback": "asymmetric", "same_update": False}, 0.0, (0.1, 0.7)),
    ],
    ids=["random sign", "the same update", "the same update, random sign", "the different update"],
)
def test_it_learns_digits_by_nudges_of_random_sign_and_by_feedback_of_its_own(options, decay, aligned):
    """On held-out digits; feedback begins at random, and by the same update, with weight decay, becomes the weights."""
    torch.manual_seed(0)
    train, test = data.load("digits")
    batches = data.Batches(train, 64, shuffle=True)
    layers = nn.Sequential(
        *[nn.Flatten(), nn.Linear(64, 64), HardSigmoid(), nn.Linear(64, 64), HardSigmoid(), nn.Linear(64, 10)]
    )
    x, _ = next(iter(batches))
    rule = EquilibriumPropagation.for_classifier(layers, x, 10, free_steps=12, nudged_steps=4, **options)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)

    def likeness():
        weights = [rule.settling_network.feedback["3"].weight, layers[3].weight]
        return float(F.cosine_similarity(*(weight.detach().flatten() for weight in weights), dim=0))

    if aligned:
        assert abs(likeness()) < 0.1
    for _ in range(10):
        for x, y in batches:
            optimizer.zero_grad()
            rule.backward(x, y)
            optimizer.step()
    held_out = data.Batches(test, 360, shuffle=False, statistics=batches.statistics)
    assert evaluate(rule, held_out)["accuracy"] > 0.8
    if aligned:
        assert aligned[0] < likeness() <= aligned[1] + 1e-6


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("feedback", ["symmetric", "asymmetric"])
def test_it_learns_in_every_form(feedback, readout):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 24), HardSigmoid(2.0), nn.Linear(24, 16), HardSigmoid(2.0), nn.Linear(16, 2))
    layers = nn.Sequential(*layers, HardSigmoid(2.0)) if readout == "squared" else layers
    x = torch.randn(256, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    rule = EquilibriumPropagation.for_classifier(layers, x[:2], 2, feedback=feedback, readout=readout)
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.02)
    before = copy.deepcopy(rule.state_dict())
    for _ in range(150):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    assert all(not torch.equal(before[key], value) for key, value in rule.state_dict().items())
    with torch.inference_mode():
        assert (rule(x).argmax(1) == y).double().mean() > 0.8
