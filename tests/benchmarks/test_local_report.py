"""The tables of the local rules in the documentation are those of the result file."""

from pathlib import Path
from types import ModuleType

import pytest

from beyondprop.report.tables import regenerate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import local_report

    return local_report


def test_page_holds_what_the_result_file_gives(report: ModuleType) -> None:
    import signals_report

    text = signals_report.PAGE.read_text(encoding="utf-8")
    made = report.tables()
    assert all(f"<!-- {name}:begin -->" in text for name in made)
    assert regenerate(text, made) == text, "run `make tables`"


def row(case: str, metric: str, ours: float, peer: str, ratio: float | None) -> dict:
    theirs = None if ratio is None else 1.0
    return {"case": case, "metric": metric, "ours": ours, "peer": peer, "peer_value": theirs, "ratio": ratio}


def test_a_line_of_a_peer_has_its_ratios_memory_and_share(report: ModuleType) -> None:
    peer, case = "dah33/explore_forward_forward@55c5395", "ff step, 6-4-4, batch 8"
    timed, fetched = f"{case}, 2 threads, float32", "ff step, with its loader, 6-4-4, batch 8, 2 threads, bf16"
    rows = [
        row(f"{timed}, the peer as it is", "images_per_second", 2000.0, peer, 1.5),
        row(f"{timed}, the peer fused", "images_per_second", 2000.0, peer, 1.25),
        row(timed, "gigaflops", 3.0, "a product of two matrices", 0.5),
        row(f"{case}, float32", "peak_memory_bytes", 10, peer, 3.0),
        row(f"{fetched}, the peer as it is", "images_per_second", 3.456, peer, 0.9),
        row(f"{fetched}, the peer fused", "images_per_second", 3.456, peer, None),
        row(f"{fetched}, the peer as published, in float32", "images_per_second", 3.456, peer, 2.5),
        row(timed, "images_per_second", 7.0, report.BP, 7.0),
    ]
    assert report.peer_table(rows).splitlines()[2:] == [
        "| ff, 6-4-4, batch 8 | float32 | explore_forward_forward | 2,000 | 1.50 / 1.25 |  | 3.00 | 0.50 |",
        "| ff, with its loader, 6-4-4, batch 8 | bf16 | explore_forward_forward | 3.46 | 0.90 | 2.50 |  |  |",
    ]


def test_a_line_of_a_rule_stands_beside_back_propagation(report: ModuleType) -> None:
    case = "cafo-dfa blocks step, cascade 3x8x8, batch 8"
    rows = [
        row(f"{case}, 2 threads, float32", "images_per_second", 2000.0, report.BP, 1.5),
        row(f"{case}, 2 threads, bf16", "images_per_second", 9000.0, report.BP, 1.75),
        row(f"{case}, float32", "peak_memory_bytes", 10, report.BP, 1.25),
    ]
    name = "| cascade 3x8x8, batch 8 | cafo-dfa blocks | 2,000 | 1.50 | 1.75 | 1.25 |"
    assert report.rule_table(rows).splitlines()[2:] == [f"{name} nothing |"]
    rows.append(row(f"{case}, float32", "peak_saved_for_backward_bytes", 10, report.BP, 2.0))
    assert report.rule_table(rows).splitlines()[2:] == [f"{name} 2.00 |"]
