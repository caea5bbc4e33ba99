"""Regression to a teacher, and what updates of a still network do to its output."""

import dataclasses

import pytest

from beyondprop import training
from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.recipes.student_teacher import StudentSettings, student
from beyondprop.training.execution import Execution

RECIPES = [r for system in SYSTEMS for r in system.recipes if isinstance(r.settings, StudentSettings)]


def train(recipe, folder, **changes):
    names = {f.name for f in dataclasses.fields(recipe.settings)}
    settings = dataclasses.replace(recipe.settings, **{n: v for n, v in changes.items() if n in names})
    return training.train(recipe, settings, Execution(threads=1), folder, progress=False)


def test_every_rule_has_its_three():
    assert len(RECIPES) == 15
    assert {recipe.id.split("/")[1] for recipe in RECIPES} == {"student-teacher", "null-space", "output-space"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_it_trains_and_tells_its_updates(recipe, tmp_path):
    small = {"epochs": 1, "samples": 48, "test_samples": 8, "pretraining": 1, "batch_size": 16, "validation": 16}
    outcome = train(recipe, tmp_path / "run", **small)
    figures = {"test_mse", "train_mse", "validation_mse", "memoryless_mse", "target_variance"}
    assert set(outcome.metrics) == figures | {"gauss_newton_degrees", "null_space"}
    layers = recipe.settings.depth + 1
    for name in ("gauss_newton_degrees", "null_space"):
        assert len(outcome.metrics[name]) == layers
    assert outcome.metrics["gauss_newton_degrees"][-1] == 0  # the last layer has the true derivative
    if recipe.id.startswith(("bp/", "gauss-newton/")):
        assert max(outcome.metrics["null_space"]) < 1e-4
    else:
        assert outcome.metrics["null_space"][0] > 0.05  # the feedback has hardly learned
    assert (tmp_path / "run" / "curves.png").exists()


def test_a_student_learns_from_its_teacher(tmp_path):
    metrics = train(find_recipe("gauss-newton/student-teacher"), tmp_path / "run", epochs=12, samples=1000).metrics
    assert metrics["test_mse"] < 0.9 * metrics["memoryless_mse"]
    assert metrics["memoryless_mse"] < metrics["target_variance"]


def test_the_toys_networks_are_the_papers():
    shapes = {}
    for variant in ("null-space", "output-space"):
        network = student(find_recipe(f"bp/{variant}").settings)
        shapes[variant] = [tuple(p.shape) for p in network.parameters()]
    assert shapes["null-space"] == [(6, 6), (6,), (6, 6), (6,), (2, 6), (2,)]
    assert shapes["output-space"] == [(4, 4), (4, 4), (2, 4)]


def test_the_still_network_stays(tmp_path):
    recipe = find_recipe("bp/null-space")
    figures = [train(recipe, tmp_path / str(n), samples=20, test_samples=40, epochs=n).metrics for n in (1, 9)]
    assert figures[0]["test_mse"] == pytest.approx(figures[1]["test_mse"], rel=1e-5)
