import argparse
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from beyondprop.catalogue import SYSTEMS
from beyondprop.rules.local.blockwise import Blockwise

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import local_step

    return local_step


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TURN_SECONDS", 1e-9)  # one step a turn
    monkeypatch.setattr(script, "LOADER_SECONDS", 1e-9)
    image = (1, 8, 8)
    tasks = (
        script.Task("tiny", "dah33", image, 4, 12, 2, methods=("ff loader", "symba")),
        script.Task("tiny", "rules", image, 4, 12, 2),
    )
    out = tmp_path / "results" / "local_step.json"
    size = script.Size(tasks=tasks, product=8, depths=(2, 6), depth_hidden=16, depth_batch=64)
    script.main(["--rounds", "1", "--threads", "1", "--out", str(out)], size)
    printed = capsys.readouterr().out
    assert "Graph-ZKY/CaFo@b2cccf3 is left out: name a checkout by --cafo" in printed
    assert "ours, symba, bf16, on" in printed
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    assert {"torch", "cpu", "threads", "device", "commit", "rounds"} <= set(result["environment"])
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] > 0
        if "@" in row["peer"]:  # not measured without a checkout
            assert row["peer_value"] is row["ratio"] is None
        elif not row["metric"].endswith("bytes"):
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer_value"])
    cases = {row["case"] for row in result["rows"]}
    assert "ff step, with its loader, tiny, batch 4, 1 threads, bf16, the peer fused" in cases
    measured = {row["case"].split(" step")[0] for row in result["rows"] if row["peer"] == script.BP}
    assert measured == {
        f"{system.id} {stage or ''}".rstrip()
        for system in SYSTEMS
        if system.family == "local" and issubclass(rule := system.load(), Blockwise)
        for stage in rule.stages
    }
    saved = {
        row["case"].split(" hidden")[0]: (row["ours"], row["peer_value"])
        for row in result["rows"]
        if " backward, " in row["case"] and "saved" in row["metric"]
    }
    for rule in ("ff", "mono-forward", "predsim"):  # their blocks free their graphs
        (few, bp_few), (many, bp_many) = saved[f"{rule} backward, 2"], saved[f"{rule} backward, 6"]
        assert few == many
        assert bp_many > bp_few


@pytest.mark.parametrize(
    ("task", "method", "trained"),
    [
        ("loewe", "ff", 64 * 12 + 2 * 12 * 12 + 3 * 12 + 2 * 12 * 10),  # as the peer's: its classifier has no bias
        ("loewe", "ff loader", None),
        ("cafo", "predictor", 32 * 16 * 10),
        ("cafo", "blocks", 10 * (32 * 16 + 128 * 4 + 512)),
    ],
)
def test_our_steps_train(
    script: ModuleType, task: str, method: str, trained: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(script.DRIVERS)
    import _steps
    import local_ours

    sizes = {"image": (1, 8, 8), "batch": 4, "hidden": 12, "depth": 3, "network": "perceptron", "epochs": 2}
    options = argparse.Namespace(task=task, **sizes)
    step = local_ours.step_of(options, method, "float32", switches=True)
    if trained is not None:
        assert _steps.trained(step) == trained
    before = [p.clone() for p in step.module.parameters() if p.requires_grad]
    step.take()
    after = [p for p in step.module.parameters() if p.requires_grad]
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_each_method_stands_beside_the_peers(script: ModuleType) -> None:
    mine = {"precisions": ["float32", "bf16"], "trained_parameters": 7, "peak_memory_bytes": 20}
    theirs = {"precisions": ["float32"], "trained_parameters": 7, "peak_memory_bytes": 30}
    nothing_saved = {**mine, "peak_saved_for_backward_bytes": 0}
    facts = {
        "ours": {"methods": {"product": mine, "ff": mine, "symba": nothing_saved}},
        "dah33": {"methods": {"ff": theirs, "symba": theirs}},
    }
    script.check_parameters(facts)
    turns = script.plan(facts)
    assert turns[:4] == [
        ("ours", "product", "float32", "on"),
        ("ours", "ff", "float32", "on"),
        ("dah33", "ff", "float32", "off"),
        ("dah33", "ff", "float32", "on"),
    ]
    assert turns[7:] == [("ours", method, "bf16", "on") for method in ("product", "ff", "symba")]
    task = script.Task("tiny", "dah33", (1, 2, 3), 10, 4, 2, methods=("ff", "symba"))
    seconds = {turn: [1.0, 4.0, 9.0] for turn in turns}
    seconds["ours", "ff", "float32", "on"] = [2.0]
    seconds["dah33", "ff", "float32", "on"] = [5.0]
    seconds["ours", "ff", "bf16", "on"] = [1.0]
    rows = script.rows(task, script.Size(product=100), 1, seconds, facts)
    found = {(row.case, row.metric): row for row in rows}
    step = "ff step, tiny, batch 10, 1 threads, float32"
    for note, other in ((", the peer as it is", 2.5), (", the peer fused", 2)):
        row = found[step + note, "images_per_second"]
        assert (row.ours, row.peer_value, row.ratio) == (5, other, 5 / other)
    assert found[step.replace("float32", "bf16") + ", the peer fused", "images_per_second"].ratio is None
    published = found[step.replace("float32", "bf16") + ", the peer as published, in float32", "images_per_second"]
    assert (published.ours, published.peer_value, published.ratio) == (10, 2.5, 4)
    floor = found[step, "gigaflops"]  # 24 + 10 x 16 + 2 x 40 products a sample, of 10 samples in 2 s
    assert floor.ours == pytest.approx(2 * 264 * 10 / 2 / 1e9)
    assert floor.peer_value == pytest.approx(2e6 / 4 / 1e9)
    assert found["ff step, tiny, batch 10, float32", "peak_memory_bytes"].ratio == 1.5
    assert len(rows) == 2 * (2 * (2 + 1) + 1) + 2


def test_least_operations(script: ModuleType) -> None:
    loewe = script.Task("tiny", "loewe", (1, 2, 3), 2, 4, 3)  # layers of 24, 16, 16, and a classifier of 8 x 10
    assert script.least_operations(loewe, "ff") == 2 * 2 * (5 * 56 + 2 * 80)
    cafo = script.Task("tiny", "cafo", (3, 4, 6), 7)  # 32 x 2 x 3 features, five steps
    assert script.least_operations(cafo, "predictor") == 5 * 4 * 7 * 10 * 192
    assert script.least_operations(cafo, "blocks") == 0


def test_networks_of_different_sizes_are_refused(script: ModuleType) -> None:
    facts = {
        "ours": {"methods": {"ff": {"trained_parameters": 7}}},
        "loewe": {"methods": {"ff": {"trained_parameters": 8}}},
    }
    with pytest.raises(SystemExit, match="loewe trains 8 parameters by ff, ours 7"):
        script.check_parameters(facts)
