import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_result_has_the_shape_that_other_programs_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import point_processes

    out = tmp_path / "point_processes.json"
    point_processes.main(["--short", "--rounds", "1", "--windows", "3", "--batch", "200", "--out", str(out)])
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    assert len(result["rows"]) == 2
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] > 0
        assert row["peer_value"] is row["ratio"] is None  # not measured without a checkout


def test_the_picture_is_drawn_from_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    import point_processes_goodness

    out = tmp_path / "goodness.png"
    point_processes_goodness.main(["gchp/simulated-mle", "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
