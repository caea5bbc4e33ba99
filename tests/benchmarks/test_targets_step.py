import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import targets_step

    return targets_step


def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "targets_step.json"
    threads = torch.get_num_threads()
    try:
        script.main(["--rounds", "1", "--threads", "1", "--out", str(out)], (script.Task("tiny", 6, (5, 4), 7, 8),))
    finally:
        torch.set_num_threads(threads)
    assert "ddtp rhl step, tiny" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert {"torch", "cpu", "threads", "commit", "rounds"} <= set(result["environment"])
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        if "@" in row["peer"]:  # not measured without a checkout
            assert row["peer_value"] is row["ratio"] is None
        else:
            assert row["ratio"] == pytest.approx(row["peer_value"] / row["ours"])
    assert len(result["rows"]) == 2 * (2 + 5 * 3)


def test_less_time_than_the_peer_is_better(script: ModuleType) -> None:
    task = script.Task("tiny", 6, (5, 4), 7, 8)
    sides = ("ours", "theirs", "fused")
    seconds = {f"{side} {method}": [t] * 3 for method in script.TYPES for side, t in zip(sides, (1, 3, 2), strict=True)}
    seconds["ours bp"] = [0.5] * 3
    found = {(row.case, row.peer): row.ratio for row in script.rows(task, "float32", seconds, 2)}
    case = "dtp step, tiny, batch 8, 2 threads, float32"
    assert found[f"{case}, the peer as it is", script.PEER] == 3
    assert found[f"{case}, the peer with fused Adam", script.PEER] == 2
    assert found[case, "bp by the library"] == 0.5
