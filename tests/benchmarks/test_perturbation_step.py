import dataclasses
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import perturbation_step

    return perturbation_step


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read_and_keeps_other_cases(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TURN_SECONDS", 1e-9)  # one step a turn
    out = tmp_path / "results" / "perturbation_step.json"
    network = script.Network("tiny", (1, 8, 8), 12, (2, 2, 3))
    size = script.Size(image=(1, 8, 8), hidden=12, batches=(4,), networks=(network,), mixer_batch=4)
    size = dataclasses.replace(
        size,
        multiplexed=script.MultiplexedSize(populations=(3,), image=(1, 28, 28), batch=2, steps=2, width=1),
        recurrent=script.RecurrentSize(hidden=6, length=3, delay=1, series=2, steps=4),
    )
    for cases in (list(script.CASES), ["local losses"]):
        script.main(["--rounds", "1", "--threads", "1", "--cases", *cases, "--out", str(out)], size)
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        if "@" in row["peer"]:  # not measured without a checkout
            assert row["peer_value"] is row["ratio"] is None
        elif row["metric"] == "images_per_second":
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer_value"])
    cases_found = [row["case"] for row in result["rows"]]
    assert len(cases_found) == len({(row["case"], row["metric"], row["peer"]) for row in result["rows"]})
    assert (
        "forward gradient: weights step, perceptron 784-12-12-10, batch 4, 1 threads, bf16, the peer fused"
        in cases_found
    )
    saved = {row["case"]: row["ours"] for row in result["rows"] if row["metric"] == "peak_saved_for_backward_bytes"}
    assert set(saved.values()) == {0}
    sent = next(row for row in result["rows"] if row["metric"] == "sent_bytes_per_step_and_process")
    assert (sent["ours"], sent["peer_value"]) == (4 * 3, 4 * 520)
    assert sent["ratio"] == pytest.approx(520 / 3)
    found = {row["case"]: row["peer_value"] for row in result["rows"] if row["case"].startswith("recurrent")}
    assert list(found) == [
        "recurrent: ANP step, a sequence of 7 steps, 6 units, batch 1",
        "recurrent: ANP step, a sequence of 7 steps, 6 units, batch 1, decorrelated",
        "recurrent: ANP online, 6 units, batch 2",
    ]
    assert set(found.values()) == {None}  # without a checkout
