"""Tables and pictures of sparse layers are those of the result files."""

import importlib
import json
from pathlib import Path

import pytest

from beyondprop.report.tables import regenerate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("sparse_report")


def rows(case, **times):
    """Rows of one layer: `dense=(forward, backward)` and so on, ours being 2 and 4 ms."""
    made = []
    for peer, pair in times.items():
        for way, ours, theirs in zip(("forward", "backward", "step"), (2.0, 4.0, 6.0), (*pair, sum(pair)), strict=True):
            found = {"case": case, "metric": f"{way}_ms", "ours": ours, "peer": peer, "peer_value": theirs}
            made.append({**found, "ratio": theirs / ours})
    for number, kernel in enumerate(("forward", "input_gradient", "weight_gradient")):
        for unit, peer, base in (("gflops", "dense product", 0.5), ("compulsory_gb_per_s", "copy", 0.2)):
            ratio = base + number / 10
            found = {"case": case, "metric": f"{kernel}_{unit}", "ours": 10 * ratio, "peer": peer, "peer_value": 10}
            made.append({**found, "ratio": ratio})
    empty = {"case": case, "metric": "empty_step_ms", "ours": 1.5, "peer": "with its weights", "peer_value": 6.0}
    made.append({**empty, "ratio": 4.0})
    return made


@pytest.fixture
def results(tmp_path):
    layer = rows("linear 4 to 4, batch 8, 90% gone, 1 thread", dense=(4.0, 4.0), sparseprop=(6.0, 12.0))
    other = {"case": "ResNet-18, 95% gone, 1 thread", "metric": "step_ms", "ours": 1.0, "peer": "dense"}
    content = {"rows": [*layer, {**other, "peer_value": 3.0, "ratio": 3.0}]}
    (tmp_path / "sparse.json").write_text(json.dumps(content))
    return tmp_path


def test_a_line_of_a_layer_has_both_directions(report, results):
    made = report.tables(results)
    assert made["sparse-layers"].splitlines()[2:] == [
        "| linear 4 to 4, batch 8 | 1 | 90 % | 2 | 4 | 2.00 / 1.00 | 3.00 / 3.00 |  "
        "| 0.50 / 0.60 / 0.70 | 0.20 / 0.30 / 0.40 | 0.25 |"
    ]
    assert made["sparse-networks"].splitlines()[2:] == [
        "| ResNet-18, 95% gone, 1 thread | step ms | 1 | dense | 3 | 3.00 |"
    ]


def test_speeds_are_beside_the_dense_layer_for_both_sides(report, results):
    speed = report.speeds(report.rows_of(results))
    assert speed["ours"] == {"linear 4 to 4, batch 8": {90: pytest.approx(8 / 6)}}
    assert speed["sparseprop"] == {"linear 4 to 4, batch 8": {90: pytest.approx(8 / 18)}}
    assert len(report.draw_speed(speed).axes) == 1


def test_accuracies_are_read_by_sparsity(report, tmp_path):
    folder = tmp_path / "sparseprop"
    folder.mkdir()
    for name, sparsity, mean in (
        ("mnist-95", 0.95, 0.98),
        ("mnist-95-at-0.8", 0.8, 0.985),
        ("mnist-95-other", 0.5, 0.1),
    ):
        test = {"mean": mean, "std": 0.001}
        content = {"settings": {"sparsity": sparsity}, "metrics": {"test_accuracy": test}}
        (folder / f"{name}.json").write_text(json.dumps(content))
    found = report.accuracies(tmp_path)
    assert found["pruned little by little"] == {"0.8": (0.985, 0.001), "0.95": (0.98, 0.001)}
    assert len(report.draw_accuracy(found, 0.99).axes[0].get_legend_handles_labels()[1]) == 2


def test_page_and_pictures_hold_what_the_result_files_give(report):
    signals_report = importlib.import_module("signals_report")
    text = signals_report.PAGE.read_text(encoding="utf-8")
    assert regenerate(text, report.tables()) == text, "run `make tables`"
    pictures = importlib.import_module("_pictures")
    assert not list(pictures.stale_pictures(report.pictures())), "run `make pictures`"
