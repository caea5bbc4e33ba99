"""Recipes of ResCNet, PCANet and threshold networks: what they draw, measure and leave behind."""

import dataclasses
import json

import pytest
import torch

from beyondprop import data, training
from beyondprop.catalogue import find_recipe
from beyondprop.data.binary import pair, table, tanh_teacher
from beyondprop.errors import DataError
from beyondprop.solvers.rescnet.network import ResCNet
from beyondprop.training.depth_curve import draw_by_depth
from beyondprop.training.execution import Execution


def train(name, folder, seed=0, **changes):
    recipe = find_recipe(name)
    settings = dataclasses.replace(recipe.settings, **changes)
    return training.train(recipe, settings, Execution(threads=1, seed=seed), folder, progress=False)


def test_rescnet_tells_accuracy_by_depth_and_draws_it(tmp_path, monkeypatch):
    by_depth, counted = ResCNet.right_by_depth, []
    monkeypatch.setattr(ResCNet, "right_by_depth", lambda self, x, y: (counted.append(len(x)), by_depth(self, x, y))[1])
    outcome = train("rescnet/digits", tmp_path / "run", layers=3, filters=16)
    figures = outcome.metrics
    assert figures["test_accuracy"] > 0.9
    for name in ("accuracy_by_depth", "held_out_by_depth", "share_by_depth", "residual_by_depth"):
        assert len(figures[name]) == 3
    assert figures["accuracy_by_depth"][int(figures["depth"]) - 1] == pytest.approx(figures["test_accuracy"])
    assert figures["depth"] == 1 + max(range(3), key=lambda d: figures["held_out_by_depth"][d])
    assert (tmp_path / "run" / "depth.png").read_bytes().startswith(b"\x89PNG")
    assert sum(counted) == 360  # the picture does not measure anew


def test_an_interrupted_fit_goes_on_at_its_last_finished_layer(tmp_path, monkeypatch):
    whole = train("rescnet/digits", tmp_path / "whole", layers=3, filters=16)
    conclude, concluded = ResCNet.conclude, []

    def failing(self, part):
        concluded.append(part)
        if part == "layer 3":
            raise RuntimeError("killed")
        conclude(self, part)

    monkeypatch.setattr(ResCNet, "conclude", failing)
    with pytest.raises(RuntimeError, match="killed"):
        train("rescnet/digits", tmp_path / "run", layers=3, filters=16)
    monkeypatch.setattr(ResCNet, "conclude", lambda self, part: (concluded.append(part), conclude(self, part))[1])
    recipe = find_recipe("rescnet/digits")
    settings = dataclasses.replace(recipe.settings, layers=3, filters=16)
    resumed = training.train(recipe, settings, Execution(threads=1), tmp_path / "run", resume=True, progress=False)
    assert concluded == ["layer 1", "layer 2", "layer 3", "layer 3"]
    assert resumed.metrics == whole.metrics


def test_pcanet_learns_in_seconds(tmp_path):
    outcome = train("pcanet/digits", tmp_path / "run", passes=2, first=4)
    assert outcome.metrics["test_accuracy"] > 0.85


def test_threshold_recipes_tell_optimum_and_baselines(tmp_path):
    outcome = train("threshold/teacher", tmp_path / "run", baseline_epochs=20, baseline_width=20, hidden=1000)
    figures = outcome.metrics
    y = tanh_teacher().train.labels
    ones = int(y.sum())
    beta = 1e-3 * len(y)
    optimum = (2 * beta - beta**2 / 2 * (1 / ones + 1 / (len(y) - ones))) / len(y)
    assert figures["objective"] == pytest.approx(optimum, abs=1e-12)
    assert figures["network_objective"] == pytest.approx(optimum, abs=1e-9)
    assert figures["duality_gap"] == pytest.approx(0, abs=1e-12)
    assert figures["train_accuracy"] == 1
    assert 0.6 < figures["logistic_accuracy"] < 1
    names = {
        f"straight_through_{n}_{f}" for n in ("identity", "relu", "leaky", "clipped") for f in ("accuracy", "objective")
    }
    assert names <= set(figures)
    assert min(figures[name] for name in names if "objective" in name) > optimum
    other = train("threshold/iris", tmp_path / "iris", seed=1, hidden=500, baseline_epochs=30, baseline_width=100)
    assert names <= set(other.metrics)  # of three classes, each against the rest
    assert other.metrics["straight_through_relu_accuracy"] > 0.5
    without = train("threshold/iris", tmp_path / "without", seed=1, hidden=500, baseline_epochs=0)
    assert not any(name.startswith("straight") for name in without.metrics)
    assert json.loads((tmp_path / "iris" / "result.json").read_text())["metrics"]["test_accuracy"] > 0.85


def test_every_seed_draws_other_data():
    recipe = find_recipe("threshold/teacher")
    draws = [recipe.make_data(recipe.settings, seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0].train.images, draws[1].train.images)
    assert not torch.equal(draws[0].train.images, draws[2].train.images)
    for name in ("breast-cancer", "wine"):
        first, second = (table(name, trial=trial) for trial in (0, 1))
        assert len(first.train) == len(second.train)
        assert not torch.equal(first.test.images, second.test.images)


def test_a_teacher_is_the_notebooks():
    """Written out anew, in the notebook's order, with numpy's own global generator."""
    import numpy as np

    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(42)  # noqa: NPY002
    x, x_test = np.random.randn(100, 20), np.random.randn(2000, 20)  # noqa: NPY002
    first, second, last = (np.random.uniform(-1, 1, size=s) for s in ((21, 20), (20, 20), (20,)))  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    splits = tanh_teacher()
    torch.testing.assert_close(splits.test.images, torch.from_numpy(x_test).float())
    said = np.tanh(np.tanh(np.hstack([x, np.ones((100, 1))]) @ first) @ second) @ last
    assert (splits.train.labels.numpy() == (said >= 0)).all()


def test_a_pair_is_two_classes_of_a_set():
    digits = data.load("digits").test
    splits = pair("digits", 9, 4, samples=50)
    assert len(splits.train) == 50
    assert torch.equal(splits.test.images[splits.test.labels == 1], digits.images[digits.labels == 4])
    assert torch.equal(splits.test.images[splits.test.labels == 0], digits.images[digits.labels == 9])


def test_what_is_no_task_is_refused(one_line):
    with one_line(DataError, "breast-cancer, iris, wine"):
        table("boston")
    for classes in ((3, 3), (0, 10)):
        with one_line(DataError, "two classes of 0..9"):
            pair("digits", *classes, samples=50)
    with one_line(DataError, "samples"):
        tanh_teacher(0)


def test_a_picture_needs_no_samples_held_out():
    assert draw_by_depth({"accuracy_by_depth": [0.5, 0.6], "depth": 2.0}, "two layers").startswith(b"\x89PNG")
