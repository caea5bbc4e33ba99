"""Recipes of networks in time: what they draw, measure and leave behind."""

import dataclasses
import functools
from contextlib import contextmanager

import pytest
import torch

from beyondprop import training
from beyondprop.catalogue import find_recipe, find_system
from beyondprop.dynamics import series
from beyondprop.training.execution import Execution


@contextmanager
def soon_on_the_attractor():
    """Series begin after a short time: by default they come to the attractor for longer than all else takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "network_series", functools.partial(series.network_series, washout=2))
        yield


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    recipe = find_recipe("network-inference/lorenz-5")
    settings = dataclasses.replace(recipe.settings, nodes=3, edges=0.5, steps=200, noise=0.002, hidden=6, windows=(8,),
                                   rounds=1, horizon=60, starts=3, tolerance=1e-6)  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "run"
    with soon_on_the_attractor():
        return training.train(recipe, settings, Execution(threads=1), folder, progress=False)


def test_figures_stand_beside_those_of_closed_forms(outcome):
    figures = outcome.metrics
    for name in ("edge_auc", "weight_rmse", "local_rmse", "valid_time_ratio"):
        for prefix in ("", "least_squares_", "sparse_regression_", "smoothed_least_squares_"):
            assert prefix + name in figures
    assert figures["edge_auc"] == 1
    assert figures["weight_rmse"] < 0.1
    assert figures["valid_time_ratio"] == pytest.approx(figures["valid_time"] / figures["true_valid_time"])
    assert figures["test_mse"] < 0.1


def test_a_picture_is_left(outcome):
    assert (outcome.folder / "network.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_is_loaded_again(outcome):
    with soon_on_the_attractor():
        loaded = training.load_run(outcome.folder, device="cpu")
    assert loaded.evaluate(loaded.splits.test)["loss"] == pytest.approx(outcome.metrics["test_mse"])


def test_every_row_of_the_table_has_its_recipe():
    names = [recipe.id.split("/")[1] for recipe in find_system("network-inference").recipes]
    for system in ("lorenz", "chua", "fhn"):
        for nodes in (16, 64):
            for noise in ("0", "0p1", "1"):
                assert f"{system}-{nodes}-noise-{noise}" in names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chua-16-spread", "fhn-16-noise-0p1"])
def test_networks_of_the_recipes_stay_in_bounds_and_apart(name):
    recipe = find_recipe(f"network-inference/{name}")
    settings = dataclasses.replace(recipe.settings, nodes=4, steps=200)
    train, test = recipe.make_data(settings, 0)
    for part in (train, test):
        states = part.images[0].view(200, 4, -1)
        assert states.abs().max() < 30
        assert torch.corrcoef(states[:, :, 0].T).fill_diagonal_(0).abs().max() < 0.9999
