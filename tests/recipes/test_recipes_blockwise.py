"""Recipes of the blockwise rules: settings reach rule and network, and baselines are the very same network."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from beyondprop import data, training
from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.recipes.cascaded_forward import CascadeSettings
from beyondprop.recipes.classifiers import NetworkSettings, baseline, make_network
from beyondprop.rules.local.forward_forward import ForwardForward
from beyondprop.rules.local.label_input import ClassPattern, Overlay
from beyondprop.rules.local.symba import SymBa
from beyondprop.solvers.cascaded_forward import CascadedLeastSquares
from beyondprop.training.execution import Execution

BLOCKWISE = ("ff", "symba", "cafo", "mono-forward", "predsim", "cwcomp")


@pytest.fixture(scope="module")
def splits():
    return data.load("digits")


def built(recipe_id, splits, **changes):
    recipe = find_recipe(recipe_id)
    return recipe.build(dataclasses.replace(recipe.settings, **changes), splits)


@pytest.mark.parametrize(
    ("recipe_id", "field", "value", "seen"),
    [
        ("ff/digits", "goodness", "mean", lambda rule: rule.goodness),
        ("ff/digits", "threshold", 0.5, lambda rule: rule.thresholds[0] / 64),
        ("ff/digits", "amplitude", 5.0, lambda rule: rule.label.amplitude),
        ("ff/digits", "peer", 0.03, lambda rule: rule.peer),
        ("ff/digits", "readout", "softmax", lambda rule: rule.readout),
        ("ff/digits", "order", "one-by-one", lambda rule: rule.order),
        ("ff/digits", "depth", 3, lambda rule: len(rule.blocks)),
        ("symba/digits", "negatives", "hard", lambda rule: rule.negatives),
        ("symba/digits", "alpha", 7.0, lambda rule: rule.alpha),
        ("symba/digits", "pair_loss", "swish", lambda rule: rule.shape_of_loss),
        ("cafo/digits", "loss", "sparsemax", lambda rule: rule.predictors[0].loss),
        ("cafo-dfa/digits", "loss", "squared", lambda rule: rule.predictors[2].loss),
        ("cafo/digits-mse", "ridge", 0.5, lambda rule: rule.ridge),
        ("mono-forward/digits", "order", "one-by-one", lambda rule: rule.order),
        ("predsim/digits", "beta", 0.5, lambda rule: rule.beta),
        ("predsim/digits", "batch_norm", False, lambda rule: isinstance(rule.network[2], nn.BatchNorm1d)),
        ("predsim/digits", "dropout", 0.3, lambda rule: getattr(rule.network[4], "p", 0.0)),
        ("cwcomp/digits", "goodness", "mean", lambda rule: rule.objectives[0].goodness),
    ],
)
def test_setting_reaches_the_rule(recipe_id, field, value, seen, splits):
    assert seen(built(recipe_id, splits, **{field: value}).rule) == value
    assert seen(built(recipe_id, splits).rule) != value


def test_the_two_rules_of_goodness_are_told_apart(splits):
    assert type(built("ff/digits", splits).rule) is ForwardForward
    assert type(built("symba/digits", splits).rule) is SymBa
    assert isinstance(built("cafo/digits-mse", splits).rule, CascadedLeastSquares)


@pytest.mark.parametrize(("label", "learned"), [("overlay", None), ("pattern", False), ("learned-pattern", True)])
def test_labels(label, learned, splits):
    rule = built("symba/digits", splits, label=label).rule
    assert isinstance(rule.label, Overlay if learned is None else ClassPattern)
    assert rule.network[1].in_features == (64 if learned is None else 128)
    if learned is not None:
        assert rule.label.patterns.requires_grad == learned
    assert rule(torch.randn(2, 1, 8, 8)).shape == (2, 10)


BASELINES = [r for system in SYSTEMS for r in system.recipes if system.id == "bp" and r.id.endswith(BLOCKWISE)]


def network_of(recipe):
    """How its network prints, on data of the recipe's shape."""
    shape = (1, 28, 28) if recipe.dataset == "mnist" else (3, 32, 32)
    settings = recipe.settings if isinstance(recipe.settings, NetworkSettings) else CascadeSettings()
    with torch.device("cpu" if settings.network == "local-fields" else "meta"):
        return str(make_network(settings, shape, 100 if recipe.dataset == "cifar-100" else 10)[0])


@pytest.mark.parametrize("recipe", BASELINES, ids=lambda recipe: recipe.id)
def test_a_baseline_is_back_propagation_through_the_same_network(recipe):
    variant, system = next((recipe.id[3:].removesuffix(f"-{s}"), s) for s in BLOCKWISE if recipe.id.endswith(f"-{s}"))
    other = find_recipe(f"{system}/{variant}")
    assert recipe.dataset == other.dataset
    assert network_of(recipe) == network_of(other)
    assert recipe.settings.augment == other.settings.augment
    assert recipe.settings.batch_size == other.settings.batch_size


@pytest.mark.parametrize("system", [s for s in SYSTEMS if s.id in (*BLOCKWISE, "cafo-dfa")], ids=lambda s: s.id)
def test_every_recipe_on_a_papers_data_has_a_baseline(system):
    baselines = {(recipe.dataset, network_of(recipe)) for recipe in BASELINES}
    for recipe in system.recipes:
        assert recipe.dataset == "digits" or (recipe.dataset, network_of(recipe)) in baselines, recipe.id


def test_a_baseline_takes_rate_epochs_and_decay():
    recipe = find_recipe("predsim/cifar-10")
    made = baseline(recipe, 0.5, epochs=3, weight_decay=0.25, name="other")
    assert made.id == "bp/other"
    assert isinstance(made.settings, NetworkSettings)
    settings = made.settings
    assert (settings.learning_rate, settings.epochs, settings.weight_decay) == (0.5, 3, 0.25)
    assert baseline(recipe, 0.5).settings.epochs == recipe.settings.epochs


def test_the_learning_rate_begins_anew_with_each_layer(tmp_path, splits):
    recipe = find_recipe("ff/digits")
    settings = dataclasses.replace(recipe.settings, order="one-by-one", epochs=2, lr_schedule="cosine")
    training.train(recipe, settings, Execution(threads=1), tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "learning_rate" in line]
    assert {line["stage"] for line in steps} == {"block 1", "block 2"}
    rates = [[line["learning_rate"] for line in steps if line["stage"] == f"block {k}"] for k in (1, 2)]
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0][0] > 10 * rates[0][-1]
