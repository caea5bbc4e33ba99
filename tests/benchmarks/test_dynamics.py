"""The benchmark of networks in time runs, and its rows have the shape that other programs read."""

import importlib
import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_short_benchmark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    dynamics = importlib.import_module("dynamics")
    out = tmp_path / "dynamics.json"
    dynamics.main(["--short", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["metric"] for row in rows] == ["seconds", "edge_auc", "weight_rmse"] * 2 + ["slope_of_log_seconds"]
    assert all(row["ours"] is not None for row in rows)
