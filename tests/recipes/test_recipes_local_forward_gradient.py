"""Every method of the grid trains the digits' LocalMixer; the paper's figures and exceptions are there."""

import dataclasses
from typing import get_args

import pytest
import torch

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.recipes.local_forward_gradient import ERRORS, Method


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_trains_all_blocks(method):
    recipe, splits = find_recipe("local-forward-gradient/digits"), data.load("digits")
    settings = dataclasses.replace(recipe.settings, method=method)
    torch.manual_seed(0)
    experiment = recipe.build(settings, splits)
    x, y = splits.train.images[:64].float() / 16, splits.train.labels[:64]
    before = {name: p.clone() for name, p in experiment.rule.network.blocks.named_parameters()}
    for _ in range(3):  # the readout begins at zero: a signal that comes through it needs a step
        experiment.optimizer.zero_grad()
        experiment.rule.backward(x, y)
        experiment.optimizer.step()
    assert not [n for n, p in experiment.rule.network.blocks.named_parameters() if torch.equal(p, before[n])]


def test_the_readout_learns_slowly_and_biases_do_not_decay():
    recipe = find_recipe("local-forward-gradient/mnist-small")
    groups = recipe.build(recipe.settings, data.load("digits")).optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0, 1e-4, 0.0]
    assert all((p.ndim > 1) == (group["weight_decay"] > 0) for group in groups for p in group["params"])


def test_every_method_has_the_papers_figure():
    for variant, errors in ERRORS.items():
        recipe = find_recipe(f"local-forward-gradient/{variant}")
        for method in get_args(Method):
            published = recipe.paper(dataclasses.replace(recipe.settings, method=method))
            assert published.values["test_accuracy"] == pytest.approx(1 - errors[method] / 100)


def test_methods_are_the_papers_losses_and_gradients():
    """LG- is local and greedy, with a loss for each block; L- adds those losses and stops nothing."""
    recipe = find_recipe("local-forward-gradient/digits")
    for method, gradient, losses in (
        ("lg-bp", "backprop", "block"),
        ("l-bp", "backprop", "added"),
        ("bp", "backprop", "global"),
        ("fg-a", "forward-activities", "global"),
        ("fg-w", "forward-weights", "global"),
        ("lg-fg-a", "forward-activities", "block+patch+group"),
        ("lg-fg-w", "forward-weights", "block+patch+group"),
    ):
        rule = recipe.build(dataclasses.replace(recipe.settings, method=method), data.load("digits")).rule
        assert (rule.gradient, rule.losses) == (gradient, losses)
