import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_result_has_the_shape_that_other_programs_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import quaternion

    out = tmp_path / "quaternion.json"
    size = quaternion.Size(width=16, batch=4, channels=8, places=4, images=2)
    quaternion.main(["--rounds", "1", "--out", str(out)], size)
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    names = {row["peer"] for row in result["rows"]}
    assert {"nn.Linear", "nn.Conv2d", *(name for peers in quaternion.PEERS.values() for name in peers)} <= names
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] > 0
        if "@" in row["peer"]:  # not measured without a checkout
            assert row["peer_value"] is row["ratio"] is None
        else:
            assert row["ratio"] == pytest.approx(row["peer_value"] / row["ours"])
