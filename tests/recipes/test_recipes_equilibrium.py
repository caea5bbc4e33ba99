"""The recipes of equilibrium propagation: settings reach rule and network, baselines have the same network."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.errors import UserError
from beyondprop.networks.convergent import convergent_convolutional, convergent_perceptron
from beyondprop.recipes.equilibrium import BASELINES, CIFAR, RECIPES, SETTINGS, make_layers
from beyondprop.rules.relaxation.asymmetric import AsymmetricNetwork
from beyondprop.rules.relaxation.through_settling import BackpropThroughSettling
from beyondprop.rules.signals.backprop import Backprop


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def built(digits, name="ep/digits", **changed):
    recipe = find_recipe(name)
    return recipe.build(dataclasses.replace(recipe.settings, **changed), digits)


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", 0.2), ("nudging", "one-sided"), ("free_steps", 7), ("nudged_steps", 9), ("tolerance", 1e-3)],
)
def test_setting_reaches_the_rule(field, value, digits):
    assert getattr(built(digits, **{field: value}).rule, field) == value
    assert getattr(built(digits).rule, field) != value


def test_settings_reach_the_network(digits):
    assert built(digits, order="synchronous").rule.settling_network.order == "synchronous"
    assert built(digits).rule.tolerance is None
    asymmetric = built(digits, feedback="asymmetric", same_update=False).rule.settling_network
    assert isinstance(asymmetric, AsymmetricNetwork)
    assert not asymmetric.same_update
    squared = built(digits, readout="squared").rule.settling_network
    assert len(squared.sections) == len(built(digits).rule.settling_network.sections) + 1
    assert squared.sections[-1].activation is not None


def test_baselines_have_the_same_network(digits):
    through, forward = built(digits, "bp/digits-ep").rule, built(digits, "bp/digits-ep-layers").rule
    assert isinstance(through, BackpropThroughSettling)
    assert (through.free_steps, through.through) == (12, 4)
    assert isinstance(forward, Backprop)
    names = list(built(digits).rule.settling_network.layers.state_dict())
    assert list(through.settling_network.layers.state_dict()) == list(forward.network.state_dict()) == names
    assert {recipe.id for recipe in BASELINES} == {
        f"bp/{variant}-ep{end}" for variant in SETTINGS for end in ("", "-layers")
    }
    with pytest.raises(UserError, match="softmax"):
        built(digits, method="feed-forward", readout="squared")


def test_the_papers_network_for_cifar_10():
    layers = make_layers(CIFAR, (3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in layers.parameters()) == 3_843_850
    shapes, x = [], torch.zeros(1, 3, 32, 32)
    for layer in layers:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes[1::2] == [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 1, 1)]


def test_other_networks():
    image = (1, 32, 32)
    assert isinstance(convergent_convolutional(image, 10, pool="average")[1], nn.AvgPool2d)
    assert convergent_perceptron(image, 10, hidden=(30, 20))(torch.zeros(2, *image)).shape == (2, 10)


def test_layers_learn_at_their_own_rates(digits):
    optimizer = built(
        digits, rates=(1.0, 0.5, 0.1), learning_rate=0.2, optimizer="sgd", feedback="asymmetric"
    ).optimizer
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.1, 0.02])
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 3, 2]  # feedback at its layer's
    assert optimizer.param_groups[0]["momentum"] == 0.9
    with pytest.raises(UserError, match="3 numbers"):
        built(digits, rates=(1.0,))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_decays_the_weights(optimizer, digits):
    made = built(digits, optimizer=optimizer, weight_decay=0.03).optimizer
    assert [group["weight_decay"] for group in made.param_groups] == [0.03] * 3


def test_the_folder_of_a_run_tells_how_it_settles(digits):
    experiment = built(digits)
    x, y = digits.test.images[:8].float() / 16, digits.test.labels[:8]
    files = experiment.files([(x, y)])
    numbers = json.loads(files["settling.json"])
    assert [len(numbers["free"]), len(numbers["nudged"])] == [12, 4]
    assert files["settling.png"].startswith(b"\x89PNG")


def test_the_papers_figures_stand_beside_its_own_settings():
    recipe = next(recipe for recipe in RECIPES if recipe.id == "ep/cifar-10")

    def error(**changed):
        found = recipe.paper(dataclasses.replace(recipe.settings, **changed))
        return None if found is None else round(1 - found.values["test_accuracy"], 4)

    assert error() == 0.117
    assert error(feedback="asymmetric") == 0.132
    assert error(feedback="asymmetric", same_update=False) is None
    assert error(feedback="asymmetric", readout="squared") is None
    assert error(readout="squared", nudging="one-sided") == 0.86
    assert error(nudging="one-sided") is None
    assert error(method="through-settling") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"widths": (16, 32, 64, 64)},
        {"kernel": 5},
        {"paddings": (1, 1, 1, 1)},
        {"pool": "average"},
        {"activation": "tanh"},
        {"network": "perceptron"},
        {"epochs": 2},
        {"epochs": 119},
    ],
    ids=str,
)
def test_the_papers_figures_do_not_stand_beside_another_network_or_a_shorter_training(changed):
    recipe = find_recipe("ep/cifar-10")
    assert recipe.paper(dataclasses.replace(recipe.settings, **changed)) is None
    fewer = {"order": "even-odd", "free_steps": 125, "nudged_steps": 13}  # how it settles is told as a departure
    assert recipe.paper(dataclasses.replace(recipe.settings, **fewer)) is not None
