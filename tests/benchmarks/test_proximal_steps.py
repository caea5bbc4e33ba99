import json
import math
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import proximal_steps

    return proximal_steps


@pytest.fixture
def tiny(script: ModuleType) -> object:
    return script.Size(
        dataset="digits", hidden=8, held_out=100, batch=128, trial=3, epochs=1, seeds=1, grid=(0.1, 1.0, 1e6)
    )


def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "proximal_steps.json"
    script.main(["--out", str(out)], tiny)
    assert "after equal time" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    pairs = {(row["case"].split(": ")[1], row["peer"]) for row in result["rows"]}
    assert pairs == {(ours, peer) for ours, peers in script.PEERS.items() for peer in peers}
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert math.isfinite(row["ours"])
        if row["peer_value"] is not None:
            less = row["metric"] == "train_loss"
            expected = row["peer_value"] / row["ours"] if less else row["ours"] / row["peer_value"]
            assert row["ratio"] == pytest.approx(expected)
    at_named_steps = {row["case"] for row in result["rows"] if "at step" in row["case"]}
    assert {case.split("at step ")[1].split(":")[0] for case in at_named_steps} == {"0.1", "1"}


def test_a_step_that_diverges_is_neither_chosen_nor_stable(script: ModuleType, tiny: object) -> None:
    images = script.load(tiny)
    found = script.choose(script.METHODS["SGD"], images, tiny)
    assert found.step < 1e6
    assert found.largest_stable < 1e6
    assert set(found.accuracy_by_step) == {0.1, 1.0, 1e6}


def test_equal_time_is_when_the_fastest_was_done(script: ModuleType, tiny: object) -> None:
    def training(seconds: list[float]) -> object:
        made = script.Training(None, None, seconds=seconds[-1])
        made.records = [{"seconds": at, "turn": turn} for turn, at in enumerate(seconds)]
        return made

    found = script.at_equal_time(
        {"fast": training([0, 1, 2, 3]), "slow": training([0, 2, 4, 6]), "slowest": training([0, 5, 9, 13])}
    )
    assert {name: record["turn"] for name, record in found.items()} == {"fast": 3, "slow": 1, "slowest": 0}
