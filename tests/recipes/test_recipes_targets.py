"""The recipes of target propagation: settings reach the rule, variants their networks, baselines the same ones."""

import dataclasses

import pytest

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.data import Splits
from beyondprop.recipes.target_propagation import BASELINES, DDTP, DTP, DTPDR


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.mark.parametrize(
    ("recipe_id", "field", "value", "attribute"),
    [
        ("dtp/digits", "target_step", 0.03, "target_step"),
        ("dtpdr/digits", "noise", 0.07, "noise"),
        ("dtpdr/digits", "feedback_rate", 0.05, "feedback_rate"),
        ("ddtp/digits", "feedback_decay", 0.5, "feedback_decay"),
        ("ddtp/digits", "pretraining", 3, "pretraining"),
        ("ddtp/digits", "extra_epochs", 2, "extra_epochs"),
        ("ddtp/digits", "feedback", "control", "kind"),
    ],
)
def test_setting_reaches_the_rule(recipe_id, field, value, attribute, digits):
    recipe = find_recipe(recipe_id)
    rule = recipe.build(dataclasses.replace(recipe.settings, **{field: value}), digits).rule
    assert getattr(rule, attribute) == value
    assert getattr(recipe.build(recipe.settings, digits).rule, attribute) != value


def test_length_of_the_random_layer_and_steps_of_feedback(digits):
    recipe = find_recipe("ddtp/digits-rhl")
    rule = recipe.build(dataclasses.replace(recipe.settings, feedback_hidden=33, feedback_steps=3), digits).rule
    assert rule.spread.shape == (10, 33)
    assert rule.phases == ("feedback", "feedback", None)


def test_only_the_first_layer_of_frozen_networks_is_trained(digits):
    for recipe_id in ("dtp/mnist-frozen", "ddtp/mnist-frozen", "bp/mnist-frozen-targets"):
        recipe = find_recipe(recipe_id)
        network = recipe.build(recipe.settings, digits).rule.network
        assert [name for name, p in network.named_parameters() if p.requires_grad] == ["1.weight", "1.bias"]


def test_plain_dtp_is_not_pretrained_and_its_variant_is():
    assert find_recipe("dtp/mnist").settings.pretraining == 0
    assert find_recipe("dtp/mnist-pretrained").settings.pretraining > 0


def test_all_rules_have_the_same_networks_and_epochs():
    """Whoever compares recipes compares rules: all else that makes the network is equal."""
    fields = ("network", "hidden", "depth", "epochs", "batch_size", "augment")
    kinds = {}
    for recipe in (*DTP, *DTPDR, *DDTP, *BASELINES):
        variant = recipe.id.split("/")[1]
        for suffix in ("-rhl", "-control", "-targets", "-pretrained"):
            variant = variant.removesuffix(suffix)
        kinds.setdefault(variant, set()).add(tuple(getattr(recipe.settings, field) for field in fields))
    assert set(kinds) == {"digits", "mnist", "mnist-frozen", "fashion-mnist", "cifar-10", "cifar-10-conv"}
    assert all(len(found) == 1 for found in kinds.values())


def test_the_convolutional_network_takes_its_images(digits):
    """Of CIFAR-10's size, here from the digits' numbers."""
    images = digits.train.images[:20].repeat(1, 3, 4, 4)
    part = dataclasses.replace(digits.train, images=images, labels=digits.train.labels[:20])
    recipe = find_recipe("ddtp/cifar-10-conv")
    rule = recipe.build(recipe.settings, Splits(part, part)).rule
    assert [tuple(shape) for shape in rule.chain.shapes] == [(32, 16, 16), (64 * 8 * 8,), (512,), (10,)]
