import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import recurrent_step

    return recurrent_step


def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "recurrent_step.json"
    size = script.Size(hidden=6, length=3, delay=1, series=2, steps=4)
    script.main(["--rounds", "1", "--threads", "1", "--out", str(out)], size)
    assert "is left out: name a checkout by --checkout" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"] for row in rows] == [
        "ANP step, a sequence of 7 steps, 6 units, batch 1",
        "ANP step, a sequence of 7 steps, 6 units, batch 1, decorrelated",
        "ANP online, 6 units, batch 2",
    ]
    for row in rows:
        assert row["ours"] > 0
        assert row["peer_value"] is row["ratio"] is None


def test_sides_take_turns_and_more_in_the_same_time_is_better(script: ModuleType) -> None:
    turns: list[str] = []

    def theirs() -> None:
        turns.append("theirs")
        for _ in range(20_000):
            pass

    steps = {"ours": lambda: turns.append("ours"), "theirs": theirs}
    row, seconds = script.recurrent_case("case", steps, 7, "things", 3)
    assert turns == ["ours", "theirs"] * 4  # the first warms up
    assert len(seconds["ours"]) == 3
    assert row.metric == "things per second"
    assert row.ratio == pytest.approx(row.ours / row.peer_value)
    assert row.ratio > 1


def test_online_steps_learn_at_every_time_step(script: ModuleType) -> None:
    size = script.Size(hidden=6, series=2, steps=4)
    steps = script.online_steps(size, None)
    assert set(steps) == {"ours"}
    rule = steps["ours"].__closure__
    assert any(getattr(cell.cell_contents, "windows", 0) == 4 for cell in rule)
