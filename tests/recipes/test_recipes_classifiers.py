"""The recipes on the networks that rules share: settings reach what they set; rates are those that were measured."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from torch import nn

from beyondprop import data
from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.recipes.classifiers import ClassifierSettings, Rates

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
TUNING = [RESULTS / f"{kind}_tuning.json" for kind in ("signals", "local", "targets")]
SHARED = [r for system in SYSTEMS for r in system.recipes if isinstance(r.settings, ClassifierSettings)]


def tuned():
    """What every learning rate came to in the longest trials of each recipe that were with its own augmentation."""
    found = {}
    for row in [row for path in TUNING if path.exists() for row in json.loads(path.read_bytes())["rows"]]:
        case = re.fullmatch(r"(\S+), (\d+) epochs, (?:augment (\S+), )?learning rate (\S+)", row["case"])
        if case and find_recipe(case[1]).settings.augment == (case[3] or "none"):
            trials = found.setdefault(case[1], {}).setdefault(int(case[2]), {})
            trials[float(case[4])] = row["ours"]
    return {recipe_id: by_epochs[max(by_epochs)] for recipe_id, by_epochs in found.items()}


@pytest.mark.parametrize("recipe_id", tuned())
def test_learning_rates_are_the_best_on_held_out_images(recipe_id):
    found = tuned()[recipe_id]
    best = max(found, key=found.get)
    assert find_recipe(recipe_id).settings.learning_rate == best
    assert best < max(found), "the grid must go on"
    assert best > min(found), "the grid must go on"


def test_fashion_mnist_takes_the_rate_of_mnist():
    """And so does the convolutional network of a rule that was not measured on it."""
    variants = ("digits", "mnist", "mnist-conv", "fashion-mnist", "cifar-10")
    rates = Rates(digits=1.0, mnist=2.0, cifar_10=3.0)
    assert [rates.of(name) for name in variants] == [1, 2, 2, 2, 3]
    assert [rates._replace(conv=4.0).of(name) for name in variants] == [1, 2, 4, 2, 3]


def test_every_rule_has_the_same_networks():
    """Whoever compares recipes compares rules: all else that makes the network is equal."""
    fields = ("network", "hidden", "depth", "activation", "epochs", "batch_size", "augment")
    by_variant = {}
    for recipe in SHARED:
        variant = recipe.id.split("/")[1].removesuffix("-mlp").removesuffix("-centred")
        by_variant.setdefault(variant, set()).add(tuple(getattr(recipe.settings, field) for field in fields))
    assert {variant: len(kinds) for variant, kinds in by_variant.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [
        ("hidden", 7, lambda n: n[1].out_features),
        ("depth", 3, lambda n: sum(isinstance(m, nn.Linear) for m in n) - 1),
        ("activation", "relu", lambda n: type(n[2]).__name__.lower()),
        ("network", "conv", lambda n: "conv" if isinstance(n[0], nn.Conv2d) else "mlp"),
    ],
)
def test_setting_reaches_the_network(field, value, seen):
    recipe = find_recipe("dfa/digits")
    splits = data.load("digits")
    settings = dataclasses.replace(recipe.settings, **{field: value})
    assert seen(recipe.build(settings, splits).rule.network) == value
    assert seen(recipe.build(recipe.settings, splits).rule.network) != value


@pytest.mark.parametrize(
    ("recipe_id", "field", "value", "attribute"),
    [
        ("sign-symmetry/digits", "magnitude", "batch", "magnitude"),
        ("tpsgd/digits", "local_loss", "l1", "local_loss"),
        ("tpsgd/digits", "target_scale", 3.0, "target_scale"),
        ("sdfa/digits", "centred", True, "centred"),
    ],
)
def test_setting_reaches_the_rule(recipe_id, field, value, attribute):
    recipe = find_recipe(recipe_id)
    experiment = recipe.build(dataclasses.replace(recipe.settings, **{field: value}), data.load("digits"))
    assert getattr(experiment.rule, attribute) == value
