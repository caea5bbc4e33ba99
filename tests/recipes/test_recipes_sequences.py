"""Sequence tasks as recipes: errors beside their floors, files of the user's own, and one network for all rules."""

import csv
import dataclasses
import hashlib
import json

import pytest
import torch

from beyondprop import data, training
from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.cli import main
from beyondprop.data.sequences import weather_like
from beyondprop.errors import UserError
from beyondprop.recipes.sequences import SequenceSettings, baselines
from beyondprop.report.tables import tables
from beyondprop.reproduce import reproduce
from beyondprop.study import study
from beyondprop.training.execution import Execution

RECIPES = [r for system in SYSTEMS for r in system.recipes if isinstance(r.settings, SequenceSettings)]
SMALL = {"epochs": 2, "hidden": 8, "sequences": 64, "length": 3, "steps": 300, "window": 20, "series": 1, "samples": 2}


def small(recipe, **changes):
    names = {f.name for f in dataclasses.fields(recipe.settings)}
    return dataclasses.replace(recipe.settings, **{n: v for n, v in {**SMALL, **changes}.items() if n in names})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_every_sequence_recipe_trains(recipe, tmp_path):
    path = str(weather_like(tmp_path / "weather.csv", rows=400))
    settings = small(recipe, file=path, validation=2)
    outcome = training.train(recipe, settings, Execution(threads=1), tmp_path / "run", progress=False)
    figures = {"test_mse", "train_mse", "validation_mse", "memoryless_mse", "linear_filter_mse", "target_variance"}
    assert set(outcome.metrics) == figures
    if recipe.dataset != "csv":  # there the newest row tells most, and a filter of few rows fits noise
        assert outcome.metrics["linear_filter_mse"] < outcome.metrics["memoryless_mse"]
    assert (tmp_path / "run" / "curves.png").exists()


@pytest.mark.parametrize("variant", ["copying", "adding", "mackey-glass", "mackey-glass-forecast"])
def test_back_propagation_has_the_same_network_and_data(variant):
    ours, theirs = find_recipe(f"node-perturbation/{variant}"), find_recipe(f"bp/{variant}")
    shared = {f.name for f in dataclasses.fields(theirs.settings)} - {"learning_rate"}
    assert all(getattr(ours.settings, name) == getattr(theirs.settings, name) for name in shared)
    weights = []
    for recipe in (ours, theirs):
        settings = small(recipe)
        torch.manual_seed(0)
        weights.append(recipe.build(settings, recipe.data(settings)).rule.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_the_memoryless_floor_of_copying_is_a_uniform_guess():
    """One of eight at each of L in 2L + D steps: an error of (1/8)(7/8) in eight of ten numbers."""
    recipe = find_recipe("bp/copying")
    settings = dataclasses.replace(recipe.settings, length=10, delay=1, sequences=2000, taps=16)
    found = baselines(recipe.data(settings), 16)
    assert found["memoryless_mse"] == pytest.approx(8 * (1 / 8) * (7 / 8) / 10 * 10 / 21, rel=0.02)
    assert found["linear_filter_mse"] < 1e-6  # it sees the symbol eleven steps ago


def test_a_linear_filter_is_not_spoilt_by_the_beginning_of_sequences():
    """Of steps at which a tap has no input yet each has the best filter there is: all targets are linear here."""
    x = torch.randn(300, 6, 1, generator=torch.Generator().manual_seed(0))
    past = torch.cat([torch.zeros(300, 2, 1), x[:, :-2]], dim=1)
    y = past + torch.arange(6).view(1, 6, 1) * (torch.arange(6) < 2).view(1, 6, 1)  # an offset that the padding tells
    splits = data.Splits(*(data.SequenceSet(x, y, 1, "linear", None) for _ in range(2)))
    assert baselines(splits, 3)["linear_filter_mse"] < 1e-12
    few = data.Splits(data.SequenceSet(x[:5], y[:5], 1, "linear", None), splits.test)
    assert baselines(few, 3)["linear_filter_mse"] < 1  # one filter for all steps, which five sequences can fit


def test_floors_are_fitted_to_training_sequences_alone():
    splits = find_recipe("bp/mackey-glass").data(small(find_recipe("bp/mackey-glass")))
    other = data.Splits(splits.train, dataclasses.replace(splits.test, labels=splits.test.labels + 1))
    found, shifted = baselines(splits, 5), baselines(other, 5)
    assert shifted["linear_filter_mse"] > 0.9
    assert shifted["target_variance"] == pytest.approx(found["target_variance"], rel=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [
        ("kind", "node", lambda rule: rule.kind),
        ("sigma", 0.5, lambda rule: rule.sigma),
        ("samples", 7, lambda rule: rule.samples),
        ("noise", "gaussian", lambda rule: rule.noise),
        ("whiten", True, lambda rule: rule.whiten),
        ("explain", False, lambda rule: rule.explain),
        ("antithetic", True, lambda rule: rule.antithetic),
        ("credit", "step", lambda rule: rule.credit),
        ("windows", 3, lambda rule: rule.windows),
        ("decorrelation", 0.25, lambda rule: rule.parameter_groups()[-1].get("lr")),
        ("hidden", 5, lambda rule: rule.network.hidden),
        ("cell", "gru", lambda rule: {"GatedRNN": "gru"}.get(type(rule.network).__name__)),
        ("bias", True, lambda rule: rule.network.readout.bias is not None),
    ],
)
def test_setting_reaches_the_rule(field, value, seen):
    recipe = find_recipe("node-perturbation/copying")
    splits = recipe.data(small(recipe))
    assert seen(recipe.build(small(recipe, **{field: value}), splits).rule) == value
    usual = dataclasses.replace(small(recipe), **{field: getattr(recipe.settings, field)})
    if getattr(recipe.settings, field) != value:
        assert seen(recipe.build(usual, splits).rule) != value


def test_result_files_and_their_table(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    recipe = find_recipe("bp/copying")
    path, document = reproduce(recipe, small(recipe), seeds=2, results=tmp_path / "results", progress=False)
    assert path.name == "copying.json"
    assert len(document["metrics"]["test_mse"]["values"]) == 2
    made = tables(tmp_path / "results")
    assert made["results"] == "No results yet."
    row = made["sequence-results"].splitlines()[2]
    assert row.startswith("| `bp/copying` |")
    assert f"{document['metrics']['memoryless_mse']['mean']:.3g}" in row


def test_the_command_line_tells_errors(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    path = str(weather_like(tmp_path / "weather.csv", rows=300))
    flags = ["--file", path, "--epochs", "1", "--window", "20", "--samples", "2", "--quiet"]
    assert main(["train", "node-perturbation/csv", *flags[:-1], "--out", str(tmp_path / "run")]) == 0
    assert "test error" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] > 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["train", "node-perturbation/csv"]) == 2
    assert "--file FILE" in capsys.readouterr().err


def test_a_study_compares_classifiers(tmp_path):
    recipe = find_recipe("bp/copying")
    with pytest.raises(UserError, match="a study compares classifiers"):
        study([recipe, find_recipe("node-perturbation/copying")], seeds=2, out=tmp_path)


def test_a_forecast_is_told_in_the_units_of_the_file(tmp_path):
    """The column that is forecast is that of the file, row by row, and predictions are scaled as it is."""
    path = weather_like(tmp_path / "weather.csv", rows=400)
    recipe = find_recipe("node-perturbation/csv")
    settings = small(recipe, file=str(path), target="pressure", ahead=3, batch_size=2)
    outcome = training.train(recipe, settings, Execution(threads=1), tmp_path / "run", progress=False)
    with (tmp_path / "run" / "forecast.csv").open(newline="") as file:
        names, *rows = list(csv.reader(file))
    assert names == ["row", "pressure", "forecast"]
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert int(rows[0][0]) == 320 + 3 + 1  # four fifths are for training; rows count from 1
    for row, target, _ in rows:
        assert float(target) == pytest.approx(float(lines[int(row) - 1]["pressure"]), rel=1e-6)
    scale = torch.tensor([float(line["pressure"]) for line in lines[:320]]).std(correction=0)
    errors = torch.tensor([float(prediction) - float(target) for _, target, prediction in rows])
    assert float((errors / scale).square().mean()) == pytest.approx(outcome.metrics["test_mse"], rel=1e-3)
    assert (tmp_path / "run" / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_knows_its_file_again(tmp_path, monkeypatch, capsys):
    path, run = weather_like(tmp_path / "weather.csv", rows=300), tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    flags = ["--file", "weather.csv", "--epochs", "1", "--window", "20", "--samples", "2", "--quiet", "--out", str(run)]
    train = ["train", "node-perturbation/csv", *flags]
    assert main(train) == 0
    stored = json.loads((run / "settings.json").read_bytes())["settings"]
    assert stored["file"] == str(path.resolve())
    assert stored["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.chdir(tmp_path.parent)
    assert main(["evaluate", str(run)]) == 0  # from anywhere
    monkeypatch.chdir(tmp_path)
    assert main([*train, "--resume"]) == 0
    capsys.readouterr()

    kept = path.read_bytes()
    path.write_bytes(kept + kept.splitlines()[-1] + b"\n")
    for command in ([*train, "--resume"], ["evaluate", str(run)]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "weather.csv" in told
        assert "has changed since" in told
        assert told.count("\n") == 1
    path.unlink()
    for name, status in (("moved", 0), ("changed", 2)):  # as by somebody with whom run and file were shared
        (tmp_path / f"{name}.csv").write_bytes(kept if name == "moved" else kept[:-2])
        assert main(["evaluate", str(run), "--file", f"{name}.csv"]) == status
        assert main([*train, "--resume", "--file", f"{name}.csv"]) == status
    capsys.readouterr()
    for command in ([*train, "--resume"], ["evaluate", str(run)]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "weather.csv" in told
        assert told.count("\n") == 1
