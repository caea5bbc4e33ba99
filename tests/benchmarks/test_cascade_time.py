"""The comparison of whole trainings of Cascaded Forward and back-propagation."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from beyondprop import data
from beyondprop.errors import UserError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cascade_time

    return cascade_time


def test_seconds_to_an_accuracy_end_with_the_first_epoch_that_has_it(script):
    baseline = script.Trained(40.0, 0.8, [0.5, 0.7, 0.6, 0.8])
    assert script.passed_after(baseline, 0.65) == 20.0
    assert script.passed_after(baseline, 0.81) is None


def test_ratios_are_above_one_where_the_rule_is_better(script):
    found = {"cafo": script.Trained(10.0, 0.6, []), "bp": script.Trained(40.0, 0.8, [0.5, 0.6, 0.7, 0.8])}
    rows = {row.metric: row for row in script.compared(found, "bp", "idle")}
    assert rows["train_seconds"].ratio == 4.0
    assert rows["validation_accuracy"].ratio == pytest.approx(0.75)
    assert rows["seconds_to_the_same_accuracy"].ratio == 2.0
    assert {row.case for row in rows.values()} == {"cafo, idle"}


@pytest.mark.slow
def test_the_whole_command_writes_three_rows_a_rule(script, tmp_path):
    try:
        data.load("mnist", download=False)
    except UserError:
        pytest.skip(f"MNIST is not in {data.where('mnist')}")
    script.main(["--data", "mnist", "--epochs", "1", "--threads", "1", "--out", str(tmp_path / "time.json")])
    rows = json.loads((tmp_path / "time.json").read_bytes())["rows"]
    assert [row["case"].partition(",")[0] for row in rows] == ["cafo/mnist-mse"] * 3 + ["cafo/mnist"] * 3
    assert all(row["ours"] > 0 for row in rows)
