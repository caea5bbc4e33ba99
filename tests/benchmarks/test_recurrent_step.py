from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import recurrent_step

    return recurrent_step


def test_sides_take_turns_and_more_in_the_same_time_is_better(script: ModuleType) -> None:
    turns: list[str] = []

    def theirs() -> None:
        turns.append("theirs")
        for _ in range(20_000):
            pass

    steps = {"ours": lambda: turns.append("ours"), "theirs": theirs}
    row = script.measured("case", steps, 7, "things", 3)
    assert turns == ["ours", "theirs"] * 4  # the first warms up
    assert row.metric == "things_per_second"
    assert row.ratio == pytest.approx(row.ours / row.peer_value)
    assert row.ratio > 1


def test_online_steps_learn_at_every_time_step(script: ModuleType) -> None:
    size = script.RecurrentSize(hidden=6, series=2, steps=4)
    steps = script.online_steps(size, None)
    assert set(steps) == {"ours"}
    rule = steps["ours"].__closure__
    assert any(getattr(cell.cell_contents, "windows", 0) == 4 for cell in rule)
