"""Accuracy against the membrane's time constant: what is trained and measured, and what the text makes of it."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from beyondprop import data
from beyondprop.report.results import read_benchmark
from beyondprop.report.tables import regenerate

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--recipe", "spike-timing/digits", "--spikes", "3", "--seeds", "1", "--epochs", "1", "--images", "100"]
FEW += ["--held-out", "50", "--set", "widths=(8,)"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("spike_time_constant")


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("spiking_report")


def images_of(image_set):
    return {image.numpy().tobytes() for image in image_set.images}


def test_each_time_constant_is_trained_with_several_spikes_and_with_one(script, tmp_path, monkeypatch):
    """In the shape of every benchmark, on training images alone; a second call measures what is missing."""
    seen, out = [], tmp_path / "out.json"
    measure = script.measure

    def watched(recipe, settings, execution, splits):
        seen.append((settings, splits))
        return measure(recipe, settings, execution, splits)

    monkeypatch.setattr(script, "measure", watched)
    script.main([*FEW, "--tau-m", "2", "--out", str(out)])
    first = read_benchmark(out)["rows"]
    script.main([*FEW, "--tau-m", "2", "0", "--out", str(out)])
    rows = read_benchmark(out)["rows"]
    assert rows[:2] == first
    assert [(settings.tau_m, settings.spikes) for settings, _ in seen] == [(2.0, 3), (2.0, 1), (0.0, 3), (0.0, 1)]
    assert [row["metric"] for row in rows] == ["validation_accuracy", "hidden_spikes"] * 2
    about = "100 images, 1 epochs, batch 32, widths=(8,), seed 0"
    assert rows[0]["case"] == f"spike-timing/digits, up to 3 spikes, tau_m 2.0, {about}"
    assert rows[2]["case"] == f"spike-timing/digits, up to 3 spikes, tau_m infinite, {about}"
    assert {row["peer"] for row in rows} == {"one spike a neuron"}
    assert 0 < rows[1]["peer_value"] <= 8 < rows[1]["ours"] <= 24  # of eight neurons

    own = images_of(data.load("digits").train)
    for settings, splits in seen:
        assert (settings.epochs, settings.widths) == (1, (8,))
        assert (len(splits.train), len(splits.test)) == (100, 50)
        assert images_of(splits.train) | images_of(splits.test) <= own, "the test split is looked at"
    indices = script.data_of(script.find_recipe("spike-timing/digits"), seen[0][0], 0, 100, 50)
    assert not images_of(indices.train) & images_of(indices.test)


def test_what_is_looked_at_is_what_the_rule_predicts(script):
    recipe, digits = script.find_recipe("spike-timing/digits"), data.load("digits")
    torch.manual_seed(0)
    built = script.assemble(recipe, recipe.settings, script.Execution(device="cpu"), digits)
    network = built.rule.network.eval()
    right, spikes = script.looked_at(network, built.batches(digits.test))
    assert right == built.evaluate(digits.test)["accuracy"]
    assert spikes == built.measures(digits.test)["spikes_per_sample"][0]


def written(folder, accuracy, *, metric=lambda _tau: 0.9, drop=0, kind="100 images, 2 epochs, batch 32"):
    """A result file: accuracies of several spikes by time constant and seed; of one, always the same."""
    rows = []
    for tau, values in accuracy.items():
        for seed, value in enumerate(values):
            case = f"spike-timing/mnist, up to 4 spikes, tau_m {tau}, {kind}, seed {seed}"
            rows.append({"case": case, "metric": "validation_accuracy", "ours": value, "peer_value": metric(tau)})
            rows.append({"case": case, "metric": "hidden_spikes", "ours": 1000.0, "peer_value": 300.0})
    (folder / "spike_time_constant.json").write_text(json.dumps({"rows": rows[: len(rows) - drop]}))
    return folder


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ({"0.5": [0.9, 0.91], "2.0": [0.95, 0.96], "infinite": [0.94, 0.93]}, "an optimum, ahead of the shortest"),
        ({"0.5": [0.9, 0.91], "2.0": [0.95, 0.96], "infinite": [0.94, 0.965]}, "no optimum can be told from it"),
        ({"0.5": [0.9, 0.91], "2.0": [0.95, 0.96], "infinite": [0.97, 0.97]}, "no optimum is seen"),
        ({"0.5": [0.97, 0.97], "2.0": [0.95, 0.96], "infinite": [0.9, 0.9]}, "no optimum is seen"),
    ],
)
def test_an_optimum_is_told_where_it_is_measured_and_nowhere_else(report, tmp_path, accuracy, said):
    text = report.tables(written(tmp_path, accuracy))["spike-time-constant"]
    several, one = text.partition("With up to 4 spikes")[2].partition("With one spike")[::2]
    assert said in several
    assert "an optimum" not in several or "an optimum" in said
    assert "no optimum is seen" in one  # of a flat line the first is an end


def test_text_table_and_picture_hold_the_figures(report, tmp_path):
    folder = written(tmp_path, {"infinite": [0.94, 0.93], "0.5": [0.9, 0.91], "2.0": [0.95, 0.96]})
    text = report.tables(folder)["spike-time-constant"]
    assert r"With up to 4 spikes a neuron $\tau_m = 2$ is the best that was tried, at 95.50 ± 0.71 %" in text
    assert "by 5.00 and 2.00 points in the mean" in text
    assert "`spike-timing/mnist` on 100 of the training images, 2 epochs in batches of 32, 2 seeds" in text
    assert [line.split("|")[1].strip() for line in text.splitlines()[-3:]] == ["$0.5$", "$2$", r"$\infty$"]
    assert "| $2$ | 95.50 ± 0.71 | 1,000 | 90.00 ± 0.00 | 300 |" in text
    (content, draw) = report.pictures(folder)[report.PICTURE]
    assert [math.isinf(tau) for tau, _ in content[0][1]] == [False, False, True]
    figure = draw()
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["0.5", "2", "no leak"]
    assert len(importlib.import_module("_pictures").svg(content, draw)) < 200_000


def test_nothing_is_said_before_it_is_measured(report, tmp_path):
    assert "not measured yet" in report.tables(tmp_path)["spike-time-constant"]
    assert report.pictures(tmp_path) == {}


def test_files_of_several_kinds_or_with_gaps_are_refused(report, tmp_path):
    with pytest.raises(ValueError, match="lacks seeds"):
        report.curves(written(tmp_path, {"0.5": [0.9, 0.91], "2.0": [0.95, 0.96]}, drop=2))
    path = tmp_path / "spike_time_constant.json"
    one, other = (
        json.loads((written(tmp_path, {"2.0": [0.9]}, kind=kind) / path.name).read_text())["rows"]
        for kind in ("100 images, 2 epochs, batch 32", "100 images, 3 epochs, batch 32")
    )
    path.write_text(json.dumps({"rows": one + other}))
    with pytest.raises(ValueError, match="several kinds"):
        report.curves(tmp_path)


def test_page_and_picture_hold_what_the_result_file_gives(report):
    text = report.PAGE.read_text(encoding="utf-8")
    assert regenerate(text, report.tables()) == text, "run `make tables`"
    assert "<!-- spike-time-constant:begin -->" in text
    pictures = importlib.import_module("_pictures")
    assert not list(pictures.stale_pictures(report.pictures())), "run `make pictures`"
