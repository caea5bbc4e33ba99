"""Recipes of point processes: from data to figures, and a file of one's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from beyondprop import training
from beyondprop.catalogue import find_recipe, find_system
from beyondprop.data.events import event_sequences
from beyondprop.errors import UserError
from beyondprop.point_processes import simulate_hawkes
from beyondprop.point_processes.baselines import baselines
from beyondprop.training.execution import Execution

FIGURES = {"nll", "gap_nll", "gap_rmse", "mark_accuracy", "ks_distance", "constant_gap_nll", "repeat_mark_accuracy"}


def trained(recipe, settings, folder, **options):
    return training.train(recipe, settings, Execution(), folder, progress=False, **options)


def test_simulated_beats_the_constants_and_tells_its_figures(tmp_path):
    recipe = find_recipe("gchp/simulated")
    outcome = trained(recipe, replace(recipe.settings, epochs=2, batch_size=64, validation=500), tmp_path / "run")
    metrics = outcome.metrics
    assert metrics.keys() >= FIGURES | {"validation_nll", "train_nll"}
    assert metrics["gap_nll"] < metrics["constant_gap_nll"] - 0.05
    assert metrics["nll"] < metrics["constant_nll"] - 0.05
    assert (tmp_path / "run" / "goodness.png").read_bytes().startswith(b"\x89PNG")
    again = training.load_run(tmp_path / "run")
    assert again.evaluate(again.splits.test)["nll"] == pytest.approx(metrics["nll"])


def test_true_family_fits_the_simulated_events_best(tmp_path):
    recipe = find_recipe("gchp/simulated-mle")
    metrics = trained(recipe, recipe.settings, tmp_path / "run").metrics
    assert metrics["nll"] < metrics["constant_nll"] - 0.2
    assert metrics["ks_distance"] < 0.05


@pytest.mark.parametrize("variant", ["simulated-paper", "simulated-rmtpp", "simulated-thp"])
def test_peers_run_from_data_to_figures(variant, tmp_path):
    recipe = find_recipe(f"gchp/{variant}")
    metrics = trained(recipe, replace(recipe.settings, epochs=1), tmp_path / "run").metrics
    assert metrics.keys() >= FIGURES


def test_a_file_of_ones_own_is_known_again(tmp_path):
    events = simulate_hawkes([0.4, 0.3], [[0.4, 0.1], [0.1, 0.3]], 2.0, until=30.0, sequences=12, seed=0)
    path = tmp_path / "events.npz"
    np.savez(path, times=events.times, marks=events.marks, offsets=events.offsets, ends=events.ends)
    recipe = find_recipe("gchp/csv")
    with pytest.raises(UserError, match="--file"):
        recipe.settings.data()
    outcome = trained(recipe, replace(recipe.settings, file=str(path), epochs=1), tmp_path / "run")
    assert outcome.metrics.keys() >= FIGURES
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="has changed"):
        training.load_run(tmp_path / "run")


def test_default_settings_are_those_of_the_papers_code():
    settings = find_recipe("gchp/hawkes-paper").settings
    given = {"batch_size": 3000, "epochs": 200, "history": 3, "hidden": 32, "learning_rate": 1e-3, "weight_decay": 1e-8}
    given |= {"gap": "exponential", "loss": "likelihood", "layers": 2, "kernel": "exponential", "dropout": 0.1}
    assert {name: getattr(settings, name) for name in given} == given
    told = find_recipe("gchp/hawkes")
    assert any("gap mixture" in choice for choice in told.choices(told.settings))


def test_every_model_is_on_every_set():
    variants = {recipe.id.partition("/")[2] for recipe in find_system("gchp").recipes}
    assert {
        f"{name}{model}"
        for name in ("hawkes", "stackoverflow", "bookorder", "simulated")
        for model in ("", "-paper", "-mle", "-rmtpp", "-thp")
    } <= variants


def test_baselines_by_hand():
    train = event_sequences([0.0, 1.0, 4.0], [0, 0, 1]).pieces(history=2)
    test = event_sequences([0.0, 3.0, 4.0], [1, 1, 0], ends=[6.0]).pieces(history=2)
    found = baselines(train, test)
    assert found["constant_gap_nll"] == pytest.approx((3 + 1 + 2) / 2 / 2 + np.log(2))
    assert found["constant_gap_rmse"] == pytest.approx(1.0)
    assert found["repeat_mark_accuracy"] == 0.5
    assert found["constant_nll"] - found["constant_gap_nll"] == pytest.approx(np.log(2))


def test_the_same_seed_gives_the_same_weights(tmp_path):
    recipe = find_recipe("gchp/simulated")
    settings = replace(recipe.settings, epochs=1, batch_size=1024)
    runs = [trained(recipe, settings, tmp_path / name) for name in ("one", "two")]
    one, two = (training.load_run(outcome.folder).rule.state_dict() for outcome in runs)
    assert all(torch.equal(one[key], two[key]) for key in one)
