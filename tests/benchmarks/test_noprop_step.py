import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import noprop_step

    return noprop_step


@pytest.fixture
def tiny(script: ModuleType) -> object:
    return script.Size(blocks=2, batch=4, widths=(2, 3, 4), hidden=8)


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "noprop_step.json"
    script.main(["--rounds", "1", "--warmup", "0", "--out", str(out)], tiny)
    assert "GFLOP/s" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    assert {"torch", "cpu", "threads", "device", "commit"} <= set(result["environment"])
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] > 0
        if "NoPropLLM" in row["peer"]:  # not measured without --peer
            assert row["peer_value"] is row["ratio"] is None
        elif row["metric"] == "images_per_second":
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer_value"])
        else:
            assert row["ratio"] == pytest.approx(row["peer_value"] / row["ours"])


def test_the_plain_loop_has_our_mathematics(script: ModuleType, tiny: object, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = script.noprop(tiny, torch.device("cpu"), "float32")
    plain = script.plain_loop(tiny, torch.device("cpu"))
    blocks, head = plain.module
    for side in (ours, plain):
        side.module.double()  # batch norms over four samples cancel: in float32 some gradients would be rounding errors
        for module in side.module.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    # Both register their parameters in the order of Figure 6; ours reads the images' features channels last.
    with torch.no_grad():
        for mine, theirs in zip(ours.module.network, blocks, strict=True):
            for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
                q.copy_(p if p.shape != (8, 4 * 49) else p.view(8, 49, 4).transpose(1, 2).flatten(1))
        for p, q in zip(ours.module.head.parameters(), head.parameters(), strict=True):
            q.copy_(p)
    x, y = torch.randn(4, 1, 28, 28, dtype=torch.float64), torch.arange(4)
    noise = torch.Generator()
    # Ours draws each block's noise from a stream of its own: here both sides take theirs from one list.
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.randn(like.shape, generator=noise, dtype=like.dtype))
    noise.manual_seed(1)
    loss = ours.module.backward(x, y)
    noise.manual_seed(1)
    assert script.plain_gradients(blocks, head, x, y) == pytest.approx(loss.item(), rel=1e-12)
    for mine, theirs in zip(ours.module.network, blocks, strict=True):
        for p, q in zip(mine.fusion.parameters(), theirs.fusion.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
        torch.testing.assert_close(next(mine.image_path.parameters()).grad, next(theirs.image.parameters()).grad)
