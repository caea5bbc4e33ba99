"""Regression to a teacher, and what updates of a still network do to its output."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from beyondprop import training
from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.cli import main
from beyondprop.errors import UserError
from beyondprop.measure import gauss_newton
from beyondprop.measure.gauss_newton import GaussNewtonAlignment
from beyondprop.recipes.student_teacher import StudentSettings, signals, student
from beyondprop.reproduce import reproduce
from beyondprop.rules.signals.backprop import Backprop
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


@pytest.mark.parametrize("setting", [{"depth": -1}, {"hidden": 0}, {"samples": 0}, {"outputs": 0}])
def test_what_makes_no_network_is_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=f"{name} must be a whole number of at least {value + 1}"):
        dataclasses.replace(find_recipe("ddtp/student-teacher").settings, **setting)


def test_samples_without_an_update_have_no_part_in_the_means(monkeypatch):
    given = iter([(None, None), (40.0, 0.5), (None, 0.0), (20.0, 0.1)])

    def measured(*_):
        return {"one": GaussNewtonAlignment(*values(next(given))), "none": GaussNewtonAlignment(None, None, None)}

    def values(pair):
        return pair[0], 1.0, pair[1]

    monkeypatch.setattr(gauss_newton, "gauss_newton_alignment", measured)
    found = signals(Backprop(nn.Linear(2, 2)), [(torch.zeros(3, 2), torch.zeros(3, 2)), (torch.zeros(1, 2),) * 2])
    assert found["gauss_newton_degrees"][0] == 30
    assert found["null_space"][0] == pytest.approx(0.2)
    assert found["gauss_newton_degrees"][1] is found["null_space"][1] is None


def test_a_layer_without_update_is_null_in_every_file_and_a_dash_on_the_screen(tmp_path, monkeypatch, capsys):
    """The first layer of a frozen-in-place network: no sample has an update, and JSON knows no NaN."""
    original = gauss_newton.gauss_newton_alignment

    def measured(*given):
        found = original(*given)
        return found | {next(iter(found)): GaussNewtonAlignment(None, None, None)}

    monkeypatch.setattr(gauss_newton, "gauss_newton_alignment", measured)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    recipe = find_recipe("bp/output-space")
    settings = dataclasses.replace(recipe.settings, epochs=1, samples=32, test_samples=4)
    path, _ = reproduce(recipe, settings=settings, seeds=2, results=tmp_path / "results", progress=False)
    (run, _) = sorted((tmp_path / "runs").rglob("result.json"))

    def strict(text):
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    assert strict(run.read_text())["metrics"]["null_space"][0] is None
    found = strict(path.read_text())["metrics"]["null_space"]
    assert (found["mean"][0], found["std"][0]) == (None, None)
    assert found["mean"][1] < 1e-4
    assert main(["evaluate", str(run.parent)]) == 0
    shown = capsys.readouterr().out.split("null space\n")[1].splitlines()
    assert [line.split()[:2] for line in shown[:3]] == [["layer", "1"], ["layer", "2"], ["layer", "3"]]
    assert shown[0].split()[2] == "-"


@pytest.mark.slow
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


@pytest.mark.parametrize("pretraining", [2, 3])
def test_the_schedule_lasts_as_long_as_pretraining_and_epochs(pretraining, tmp_path):
    small = {"epochs": 2, "samples": 48, "test_samples": 8, "batch_size": 16, "pretraining": pretraining}
    train(find_recipe("dtp/student-teacher"), tmp_path, **small)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = 3 * (pretraining + 2)
    assert records[-1]["step"] == steps
    for record in records:
        share = (record["step"] - 1) / steps
        assert record["learning_rate"] == pytest.approx(1e-2 * (1 + math.cos(math.pi * share)) / 2)
