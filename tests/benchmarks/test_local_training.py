"""The comparison of whole trainings."""

import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import local_training

    return local_training


def test_time_to_an_accuracy_ends_with_the_first_epoch_that_has_it(script):
    trained = script.Trained(40.0, [0.5, 0.7, 0.6, 0.8])
    assert (trained.epochs_to(0.65), trained.seconds_to(0.65)) == (2, 20.0)
    assert trained.epochs_to(0.81) is None
    assert trained.seconds_to(0.81) is None


def test_ratios_are_above_one_where_the_rule_is_better(script):
    one, other = script.Trained(10.0, [0.6]), script.Trained(40.0, [0.5, 0.6, 0.7, 0.8])
    rows = {row.metric: row for row in script.compared(one, other, "cafo, idle", "bp")}
    assert rows["train_seconds"].ratio == 4.0
    assert rows["validation_accuracy"].ratio == pytest.approx(0.75)
    assert rows["seconds_to_the_rules_accuracy"].ratio == 2.0
    assert "seconds_to_the_peers_accuracy" not in rows
    back = {row.metric: row for row in script.compared(other, one, "bp, idle", "cafo")}
    assert back["seconds_to_the_peers_accuracy"].ratio == 0.5
    assert back["seconds_to_the_rules_accuracy"].ratio is None


@pytest.mark.slow
def test_the_whole_command_on_the_digits(script, tmp_path):
    out = tmp_path / "time.json"
    pairs = ["cafo/digits-mse:cafo/digits", "symba/digits:ff/digits"]
    script.main(["--pairs", *pairs, "--epochs", "2", "--held-out", "287", "--threads", "1", "--out", str(out)])
    rows = json.loads(out.read_bytes())["rows"]
    assert {row["case"].partition(",")[0] for row in rows} == {"cafo/digits-mse", "symba/digits"}
    assert all(row["ours"] > 0 for row in rows)
    assert max(row["ours"] for row in rows if row["metric"].startswith("epochs")) <= 2
    script.main(["--pairs", pairs[0], "--epochs", "2", "--held-out", "287", "--threads", "1", "--out", str(out)])
    again = json.loads(out.read_bytes())["rows"]
    assert sorted(row["case"] + row["metric"] for row in again) == sorted(row["case"] + row["metric"] for row in rows)
