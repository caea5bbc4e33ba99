import json
from pathlib import Path
from types import ModuleType

import pytest

from beyondprop.report.tables import regenerate

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


def test_page_holds_what_the_result_file_gives(script: ModuleType) -> None:
    import signals_report

    text = signals_report.PAGE.read_text(encoding="utf-8")
    assert regenerate(text, script.tables()) == text, "run `make tables`"
