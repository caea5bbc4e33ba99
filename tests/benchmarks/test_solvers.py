import json
import math
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import solvers

    return solvers


def test_the_result_has_the_shape_that_other_programs_read(script: ModuleType, tmp_path: Path) -> None:
    tiny = script.Size("rescnet/digits", 1, (1, 2), 20, 2, 50, 60, 3, (30, 60))
    out = tmp_path / "results" / "solvers.json"
    script.main(["--out", str(out)], tiny)
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    assert {row["case"].partition(":")[0] for row in result["rows"]} == set(script.PARTS)
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert math.isfinite(row["ours"])
        if row["metric"] == "objective" and row["peer_value"] is not None:
            assert row["ours"] <= row["peer_value"] * (1 + 1e-6)
    script.main(["--out", str(out), "--parts", "program"], tiny)
    assert len(json.loads(out.read_text())["rows"]) == len(result["rows"])
