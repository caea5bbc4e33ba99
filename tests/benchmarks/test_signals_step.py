import json
from pathlib import Path
from types import ModuleType

import pytest

from beyondprop.catalogue import SYSTEMS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import signals_step

    return signals_step


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TURN_SECONDS", 1e-9)  # one step a turn
    task = script.Task("tiny", "convolutional", (1, 8, 8), 8, 4)
    size = script.Size(tasks=(task,), depths=(1, 3), depth_hidden=8, depth_batch=4)
    out = tmp_path / "results" / "signals_step.json"
    script.main(["--rounds", "1", "--threads", "1", "--out", str(out)], size)
    assert "ours, drtp, bf16, on" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    assert {"torch", "cpu", "threads", "device", "commit", "rounds"} <= set(result["environment"])
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] >= 0
        if "@" in row["peer"]:  # not measured without a checkout
            assert row["peer_value"] is row["ratio"] is None
        elif row["metric"] == "images_per_second":
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer_value"])
    measured = {row["case"].split()[0] for row in result["rows"]}
    assert measured <= {system.id for system in SYSTEMS if system.family == "signals"}
    assert {"bp", "fa", "dfa", "sdfa", "sign-symmetry", "kolen-pollack", "drtp", "tpsgd"} <= measured


def test_each_rule_stands_beside_its_counterparts(script: ModuleType) -> None:
    task = script.Task("tiny", "perceptron", (1, 8, 8), 8, 10)
    mine = {"precisions": ["float32", "bf16"], "peak_memory_bytes": 20}
    theirs = {"precisions": ["float32"], "peak_memory_bytes": 30}
    facts = {
        "ours": {"methods": {"plain": mine, "dfa": mine, "tpsgd": mine}},
        "frenkel": {"methods": {"DFA": theirs}},
        "biotorch": {"methods": {"dfa": theirs}},
    }
    turns = script.plan(facts)
    assert turns[1:6] == [
        ("ours", "dfa", "float32", "on"),
        ("frenkel", "DFA", "float32", "off"),
        ("frenkel", "DFA", "float32", "on"),
        ("biotorch", "dfa", "float32", "off"),
        ("biotorch", "dfa", "float32", "on"),
    ]
    assert turns[7:] == [("ours", method, "bf16", "on") for method in ("plain", "dfa", "tpsgd")]  # the peers have none
    seconds = {turn: [1.0, 4.0, 9.0] for turn in turns}
    seconds["ours", "dfa", "float32", "on"] = [2.0]
    seconds["biotorch", "dfa", "float32", "off"] = [5.0]
    found = {(row.case, row.metric, row.peer.split("/")[0]): row for row in script.rows(task, 1, seconds, facts)}
    step = "dfa step, tiny, batch 10, 1 threads, float32"
    expected = {  # images per second of ours and of the other
        (step, "back-propagation by plain autograd"): (5, 2.5),
        (f"{step}, the peer as it is", "jsalbert"): (5, 2),
        (f"{step}, the peer as it is", "ChFrenkel"): (5, 2.5),
        (f"{step}, the peer fused and channels_last", "jsalbert"): (5, 2.5),
    }
    for (case, peer), (ours, other) in expected.items():
        row = found[case, "images_per_second", peer]
        assert (row.ours, row.peer_value, row.ratio) == (ours, other, ours / other)
    assert (
        found["dfa step, tiny, batch 10, 1 threads, bf16, the peer as it is", "images_per_second", "jsalbert"].ratio
        is None
    )
    assert found["dfa step, tiny, batch 10, float32", "peak_memory_bytes", "jsalbert"].ratio == 1.5
    assert len(found) == 2 * 5 + 3 + 2 + 1


def test_networks_of_different_sizes_are_refused(script: ModuleType) -> None:
    theirs = {method: {"trained_parameters": 8} for method in script.COUNTERPARTS["biotorch"].values()}
    facts = {"ours": {"methods": {"plain": {"trained_parameters": 7}}}, "biotorch": {"methods": theirs}}
    with pytest.raises(SystemExit, match="biotorch trains 8 parameters by fa, back-propagation 7"):
        script.check_parameters(facts)
