"""Recipes of Hamiltonian echoes, and of back-propagation beside them."""

import dataclasses

import pytest

from beyondprop import data, training
from beyondprop.catalogue import find_recipe
from beyondprop.errors import UserError
from beyondprop.training.execution import Execution


def trained(name, folder, **changes):
    recipe = find_recipe(name)
    settings = dataclasses.replace(recipe.settings, **changes)
    return training.train(recipe, settings, Execution(threads=1), folder, progress=False).metrics


def test_digits_are_read_well(tmp_path):
    assert trained("rhel/digits", tmp_path / "run", epochs=10)["test_accuracy"] > 0.9


@pytest.mark.slow
def test_oscillators_learn_to_move_as_others(tmp_path):
    small = {"sequences": 400, "length": 30}
    metrics = trained("rhel/oscillators", tmp_path / "run", epochs=4, **small)
    still = trained("rhel/oscillators", tmp_path / "still", epochs=1, learning_rate=1e-9, **small)
    assert metrics["test_mse"] < 0.5 * min(metrics["target_variance"], still["test_mse"])


def test_back_propagation_takes_the_same_way(tmp_path):
    """The same seed, network and batches: two epochs on, both are where the other is."""
    small = {"epochs": 2, "sequences": 100, "length": 20}
    ours, theirs = (trained(name, tmp_path / name.replace("/", "-"), **small) for name in PAIR)
    assert ours["test_mse"] == pytest.approx(theirs["test_mse"], rel=1e-3)


PAIR = ("rhel/oscillators", "bp/oscillators-rhel")


@pytest.mark.parametrize(("field", "value"), [("step", 0.0), ("eps", -1.0), ("hidden", 0), ("blocks", 0)])
def test_settings_that_cannot_be_are_one_line(field, value):
    recipe = find_recipe("rhel/mnist-rows")
    with pytest.raises(UserError, match=field):
        recipe.build(dataclasses.replace(recipe.settings, **{field: value}), data.load("digits"))
