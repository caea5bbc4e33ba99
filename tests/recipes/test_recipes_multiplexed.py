"""Populations that learn parities, and the settings of multiplexed gradient descent."""

import dataclasses

import pytest
import torch

from beyondprop import data, training
from beyondprop.catalogue import find_recipe
from beyondprop.errors import UserError
from beyondprop.training.execution import Execution


@pytest.mark.parametrize(
    ("recipe_id", "field", "value", "seen"),
    [
        ("mgd/digits", "code", "walsh", lambda rule: rule.code.kind),
        ("mgd/digits", "norm", 0.3, lambda rule: rule.norm),
        ("mgd/digits", "tau_x", 7, lambda rule: rule.tau_x),
        ("mgd/digits", "cost_noise", 0.1, lambda rule: rule.cost_noise),
        ("mgd/digits", "tau_theta", 512, lambda rule: rule.tau_theta),
        ("mgd/digits", "clamp", 0.25, lambda rule: rule.clamp),
        ("mgd/xor", "tau_theta", 4, lambda rule: rule.tau_theta),
        ("mgd/xor", "clamp", 0.25, lambda rule: rule.clamp),
        ("mgd/xor", "copies", 3, lambda rule: rule.copies),
        ("mgd/xor", "hidden", 6, lambda rule: rule.network.get_parameter("0_weight").shape[1]),
        ("mgd/xor", "code", "sequential", lambda rule: rule.code.kind),
        ("mgd/xor", "tau_p", 3, lambda rule: rule.code.tau_p),
        ("mgd/xor-analog", "tau_x", 5, lambda rule: len(rule.phases)),
        ("mgd/xor-analog", "tau_hp", 2.5, lambda rule: rule.tau_hp),
        ("mgd/xor-analog", "tau_theta", 7.0, lambda rule: rule.tau_theta),
        ("mgd/fashion-mnist", "steps", 3, lambda rule: rule.steps),
        ("mgd/fashion-mnist", "perturb", "weights", lambda rule: rule.perturb),
        ("mgd/fashion-mnist", "normalise", False, lambda rule: rule.normalise),
        ("mgd/fashion-mnist", "cost_noise", 0.1, lambda rule: rule.cost_noise),
        ("forward-gradient/digits", "directions", 9, lambda rule: rule.directions),
        ("forward-gradient/digits", "perturb", "weights", lambda rule: rule.perturb),
        ("forward-gradient/digits", "orthogonal", True, lambda rule: rule.orthogonal),
    ],
)
def test_setting_reaches_the_rule(recipe_id, field, value, seen):
    recipe = find_recipe(recipe_id)
    splits = data.load(recipe.dataset)
    settings = dataclasses.replace(recipe.settings, **{field: value})
    assert seen(recipe.build(settings, splits).rule) == value
    assert seen(recipe.build(recipe.settings, splits).rule) != value


@pytest.mark.slow
def test_most_of_a_population_learn_exclusive_or(tmp_path):
    """The goal is 95 in a hundred."""
    recipe = find_recipe("mgd/xor")
    settings = dataclasses.replace(recipe.settings, epochs=30)
    outcome = training.train(recipe, settings, Execution(threads=1), tmp_path / "run", progress=False)
    assert outcome.metrics["solved_fraction"] >= 0.95
    assert 50 <= outcome.metrics["steps_to_solve"] <= 30 * 64
    assert outcome.metrics["test_accuracy"] == 1.0


def trained(tmp_path, recipe_id, **changes):
    recipe = find_recipe(recipe_id)
    settings = dataclasses.replace(recipe.settings, **changes)
    return training.train(recipe, settings, Execution(threads=1), tmp_path / "run", progress=False).metrics


@pytest.mark.slow
def test_filters_in_the_place_of_counters_learn_it_too(tmp_path):
    assert trained(tmp_path, "mgd/xor-analog", copies=30, epochs=12)["solved_fraction"] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({}, 0.8, 1.0),
        ({"defects": 0.2, "cost_noise": 0.001, "update_noise": 0.001}, 0.5, 1.0),
        ({"update_noise": 3.0}, 0.0, 0.4),
        ({"cost_noise": 10.0}, 0.0, 0.4),
    ],
)
def test_it_learns_on_a_chip_that_is_not_too_bad(tmp_path, changes, least, most):
    assert least <= trained(tmp_path, "mgd/xor", copies=30, epochs=20, **changes)["solved_fraction"] <= most


def test_copies_have_defects_of_their_own():
    recipe = find_recipe("mgd/xor")
    settings = dataclasses.replace(recipe.settings, defects=0.2, copies=4)
    slopes = dict(recipe.build(settings, data.load("xor")).rule.network.named_buffers())["1_k_"]
    assert len(set(slopes[:, 0].tolist())) == 4


@pytest.mark.parametrize(("recipe_id", "dataset"), [("mgd/xor", "xor"), ("mgd/fashion-mnist", "digits")])
def test_without_update_noise_none_is_drawn(recipe_id, dataset):
    recipe, splits = find_recipe(recipe_id), data.load(dataset)
    for deviation in (0.0, 0.1):
        experiment = recipe.build(dataclasses.replace(recipe.settings, update_noise=deviation), splits)
        for parameter in experiment.rule.parameters():
            parameter.grad = torch.zeros_like(parameter)
        drawn = torch.get_rng_state()
        experiment.optimizer.step()
        assert torch.equal(torch.get_rng_state(), drawn) == (deviation == 0)


def test_update_noise_needs_an_optimizer_to_follow():
    recipe = find_recipe("mgd/digits")
    settings = dataclasses.replace(recipe.settings, update_noise=0.1)
    with pytest.raises(UserError, match="choose adam"):
        recipe.build(settings, data.load("digits"))
    settings = dataclasses.replace(settings, optimizer="adam")
    assert recipe.build(settings, data.load("digits")).optimizer is not None


@pytest.mark.slow
def test_letters_are_read(tmp_path):
    """By four hidden units, after one epoch; the goal after all of them is 93 %."""
    assert trained(tmp_path, "mgd/nist7x7", epochs=1)["test_accuracy"] > 0.93
