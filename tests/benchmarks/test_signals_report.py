"""The tables of teaching signals in the documentation are those of the result files."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from beyondprop.report.tables import regenerate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def report() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("signals_report", ROOT / "benchmarks" / "signals_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_holds_what_the_result_files_give(report: ModuleType) -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    made = report.tables()
    assert all(f"<!-- {name}:begin -->" in text for name in made)
    assert regenerate(text, made) == text, "run `make tables`"


def test_a_line_holds_every_peer_in_float32_alone(report: ModuleType) -> None:
    case = "fa step, perceptron 4-3, batch 8, 1 thread, float32"
    row = {"metric": "images_per_second", "ours": 2000.0, "peer_value": 1.0}
    frenkel, biotorch = "ChFrenkel/DirectRandomTargetProjection@b84e3fe", "jsalbert/biotorch@74fad0d"
    rows = [
        {**row, "case": case, "peer": report.BP, "ratio": 0.9},
        {**row, "case": f"{case}, the peer as it is", "peer": frenkel, "ratio": 1.5},
        {**row, "case": f"{case}, the peer fused and channels_last", "peer": frenkel, "ratio": 1.2},
        {**row, "case": f"{case}, the peer as it is", "peer": biotorch, "ratio": None},
        {**row, "case": case.replace("float32", "bf16"), "peer": report.BP, "ratio": 7.0},
    ]
    assert report.speed_table(rows).splitlines()[2:] == [
        "| perceptron 4-3, batch 8 | fa | 2,000 | 0.90 | 1.50 / 1.20 |  |"
    ]


def test_a_proximal_line_is_made_of_a_rules_own_rows_and_of_those_where_it_is_the_peer(report: ModuleType) -> None:
    def row(moment: str, metric: str, ours: float, peer: float) -> dict:
        case = f"mnist, perceptron with 2x256, {moment}: BPC"
        return {"case": case, "metric": metric, "ours": ours, "peer": "SGD", "peer_value": peer}

    rows = [
        row("trials", "chosen_step", 1.0, 0.316),
        row("trials", "largest_stable_step", 3.16, 0.3),
        row("after 4 epochs", "validation_accuracy", 0.9754, 0.97),
        row("after 4 epochs", "test_accuracy", 0.978, 0.972),
        row("after equal time", "test_accuracy", 0.96, 0.9721),
        row("training", "images_per_second", 28000.0, 64900.0),
    ]
    assert report.proximal_table(rows).splitlines()[2:] == [
        "| BPC | 1 | 3.16 | 97.54 | 97.80 | 96.00 | 28,000 |",
        "| SGD | 0.316 | 0.3 | 97.00 | 97.20 | 97.21 | 64,900 |",
    ]
    rows.append(row("trials", "largest_tried_step", 3.16, 3.16))
    assert report.proximal_table(rows).splitlines()[2:] == [
        "| BPC | 1 | at least 3.16 | 97.54 | 97.80 | 96.00 | 28,000 |",
        "| SGD | 0.316 | 0.3 | 97.00 | 97.20 | 97.21 | 64,900 |",
    ]


def test_a_line_of_targets_has_both_precisions(report: ModuleType) -> None:
    case, peer = (
        "dtp step, 4-3, batch 8, 1 threads",
        "meulemansalex/theoretical_framework_for_target_propagation@b6ee350",
    )

    def row(case: str, peer: str, ratio: float) -> dict:
        return {"case": case, "metric": "seconds", "ours": 0.0042, "peer": peer, "peer_value": 1.0, "ratio": ratio}

    rows = [
        row(f"{case}, float64, the peer as it is", peer, 1.5),
        row(f"{case}, float64, the peer with fused Adam", peer, 1.25),
        row(f"{case}, float64", "bp by the library", 0.5),
        row(f"{case}, float32", "bp by the library", 0.4),
    ]
    assert report.targets_table(rows).splitlines()[2:] == [
        "| 4-3, batch 8 | dtp | 4.2 | 1.50 / 1.25 | 2.00 | 4.2 |  | 2.50 |"
    ]
