from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import relaxation_recurrent

    small = relaxation_recurrent.Case("nonlinear", 8, 2, 4, 6, 3)
    monkeypatch.setattr(relaxation_recurrent, "TIMED", (small,))
    monkeypatch.setattr(relaxation_recurrent, "LONG", (relaxation_recurrent.Case("linear", 8, 2, 4, 200, 3),))
    return relaxation_recurrent


def test_time_gradients_and_memory_have_a_row_each(script: ModuleType) -> None:
    speed, error, memory = script.rows(1)
    assert speed.case == error.case == "RHEL, 2 x 8 nonlinear units, 6 steps, batch 4"
    assert [row.metric for row in (speed, error, memory)] == [
        "sequences_per_second",
        "relative_gradient_error",
        "peak_live_bytes",
    ]
    assert speed.ratio == pytest.approx(speed.ours / speed.peer_value)
    assert 0 < error.ours < script.CLOSE
    assert memory.ratio == pytest.approx(memory.peer_value / memory.ours)
    assert memory.ratio > 1  # no state is kept over 200 steps


def test_gradients_that_differ_are_not_timed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "gap", lambda *_: 2 * script.CLOSE)
    with pytest.raises(SystemExit, match="gradients differ"):
        script.rows(1)
