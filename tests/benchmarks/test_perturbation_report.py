import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import perturbation_report

    return perturbation_report


def test_a_line_for_every_row_that_was_measured_beside_a_peer(script: ModuleType, tmp_path: Path) -> None:
    row = {"case": "multiplexed: xor", "metric": "steps_per_second", "ours": 2_000.0, "peer": "a loop"}
    rows = [{**row, "peer_value": 2.5, "ratio": 800.0}, {**row, "peer_value": None, "ratio": None}]
    (tmp_path / "perturbation_step.json").write_text(json.dumps({"rows": rows}))
    lines = script.tables(tmp_path)["perturbation-peers"].splitlines()
    assert lines[2:] == ["| xor | a loop | steps per second | 2,000 | 2.5 | 800.00 |"]
