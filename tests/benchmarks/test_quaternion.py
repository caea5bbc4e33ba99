import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def test_the_result_has_the_shape_that_other_programs_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import quaternion

    out = tmp_path / "quaternion.json"
    size = quaternion.Size(width=16, batch=4, channels=8, places=4, images=2)
    quaternion.main(["--rounds", "1", "--out", str(out)], size)
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    names = {row["peer"] for row in result["rows"]}
    assert {"nn.Linear", "nn.Conv2d", *(name for peers in quaternion.PEERS.values() for name in peers)} <= names
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] > 0
        if "@" in row["peer"]:  # not measured without a checkout
            assert row["peer_value"] is row["ratio"] is None
        else:
            assert row["ratio"] == pytest.approx(row["peer_value"] / row["ours"])


def measured(case: str, peer: str) -> dict[str, Any]:
    rows = json.loads((BENCHMARKS / "results" / "quaternion.json").read_text())["rows"]
    (row,) = [row for row in rows if row["case"].endswith(case) and row["peer"].endswith(peer)]
    return row


def share(case: str, peer: str) -> float:
    """Our time, or bytes, as a share of the peer's."""
    row = measured(case, peer)
    return row["ours"] / row["peer_value"]


def told(page: str, heading: str) -> str:
    """The text of a section, without its table, on one line."""
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return " ".join(section.partition("<!--")[0].split())


def test_the_page_tells_what_the_file_has() -> None:
    """Goals, and whether they are met; bf16; convolutions; bytes."""
    float32, bf16 = "forward and backward, float32", "forward and backward, bf16"
    real = measured(f"linear 1024 to 1024, batch 256, {float32}", "nn.Linear")
    text = told("benchmarks.md", "Quaternion layers")
    assert share(float32, "nn.Linear") > 0.65
    assert f"the first is missed, at {share(float32, 'nn.Linear'):.2f}" in text
    assert share(float32, "custom backward") <= 0.35
    assert f"The second is met, at {share(float32, 'custom backward'):.2f}" in text
    rest = real["ours"] - real["peer_value"] / 2
    assert f"would take {real['peer_value'] / 2:.1f} ms; the other {rest:.1f} of our {real['ours']:.1f} ms" in text
    linear = measured(f"linear 1024 to 1024, batch 256, {bf16}", "nn.Linear")["peer_value"]
    ours = {count: measured(bf16, f"ours, {count} products")["peer_value"] / linear for count in (8, 16)}
    assert f"{share(bf16, 'nn.Linear'):.2f} of its time by default, {ours[16]:.2f} with 16" in text
    assert f"and {ours[8]:.2f} with eight" in text
    conv = {
        (count, kind): measured(f"{count} products, {kind}", "nn.Conv2d")["ratio"]
        for count in (8, 16)
        for kind in (float32, bf16)
    }
    assert f"gains {100 * (conv.pop((8, float32)) - 1):.0f} % with eight products in float32" in text
    assert max(conv.values()) < 1
    assert f"holds {share('batch 256, held for backward', 'nn.Linear'):.0f} times the bytes of `nn.Linear`" in text
    assert share("memory-saving, held for backward", "nn.Linear") == 1
    assert f"at {measured(float32, 'ours, memory-saving')['peer_value'] / real['peer_value']:.2f} of its time" in text


def test_the_rules_page_tells_what_eight_products_gain() -> None:
    text = told("rules/quaternion.md", "Eight products")
    found = []
    for precision in ("float32", "bf16"):
        linear, conv = ([], [])
        for count in (8, 16):
            linear.append(measured(f"backward, {precision}", f"ours, {count} products")["peer_value"])
            conv.append(measured(f"{count} products, forward and backward, {precision}", "nn.Conv2d")["ours"])
        found += [linear[0] / linear[1], conv[0] / conv[1]]
    assert (
        "take {:.2f} of the time of 16 in float32 in the linear layer and {:.2f} in the convolution".format(*found[:2])
        in text
    )
    assert "in bfloat16 {:.2f} and {:.2f}".format(*found[2:]) in text
