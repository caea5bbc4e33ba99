"""Populations that learn parities, and the settings of multiplexed gradient descent."""

import dataclasses

import pytest

from beyondprop import data, training
from beyondprop.catalogue import find_recipe
from beyondprop.training.execution import Execution


@pytest.mark.parametrize(
    ("recipe_id", "field", "value", "seen"),
    [
        ("mgd/digits", "code", "walsh", lambda rule: rule.code.kind),
        ("mgd/digits", "norm", 0.3, lambda rule: rule.norm),
        ("mgd/digits", "tau_x", 7, lambda rule: rule.tau_x),
        ("mgd/digits", "cost_noise", 0.1, lambda rule: rule.cost_noise),
        ("mgd/xor", "copies", 3, lambda rule: rule.copies),
        ("mgd/xor", "hidden", 6, lambda rule: rule.network.get_parameter("0_weight").shape[1]),
        ("mgd/xor", "code", "sequential", lambda rule: rule.code.kind),
        ("forward-gradient/digits", "directions", 9, lambda rule: rule.directions),
        ("forward-gradient/digits", "perturb", "weights", lambda rule: rule.perturb),
    ],
)
def test_setting_reaches_the_rule(recipe_id, field, value, seen):
    recipe = find_recipe(recipe_id)
    splits = data.load(recipe.dataset)
    settings = dataclasses.replace(recipe.settings, **{field: value})
    assert seen(recipe.build(settings, splits).rule) == value
    assert seen(recipe.build(recipe.settings, splits).rule) != value


def test_most_of_a_population_learn_exclusive_or(tmp_path):
    """The goal is 95 in a hundred."""
    recipe = find_recipe("mgd/xor")
    settings = dataclasses.replace(recipe.settings, epochs=30)
    outcome = training.train(recipe, settings, Execution(threads=1), tmp_path / "run", progress=False)
    assert outcome.metrics["solved_fraction"] >= 0.95
    assert 50 <= outcome.metrics["steps_to_solve"] <= 30 * 64
    assert outcome.metrics["test_accuracy"] == 1.0
