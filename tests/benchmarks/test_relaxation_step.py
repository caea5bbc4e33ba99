import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import relaxation_step

    return relaxation_step


def small(script: ModuleType) -> tuple:
    convolutional = script.Task("conv", "laborieux", (1, 12, 12), (3, 4), "hard-sigmoid", 4, 40, 4, 0.4, 3, (1, 0))
    rain = script.Task(
        *("rain", "rain", (1, 12, 12), (3, 4), "hard-sigmoid", 4, 6, 4, 0.4, 3, (1, 0), "squared", False, "even-odd")
    )
    return script.Task("mlp", "laborieux", (1, 4, 4), (5,), "steep-sigmoid", 6, 30, 4, 0.1), convolutional, rain


def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "relaxation_step.json"
    script.main(["--rounds", "1", "--threads", "1", "--out", str(out)], small(script))
    assert "half of the steps" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert {"torch", "cpu", "threads", "commit", "rounds"} <= set(result["environment"])
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] > 0
        assert row["peer_value"] is row["ratio"] is None  # not measured without a checkout
    cases = [row["case"].partition(",")[0] for row in result["rows"]]
    assert cases.count("rain") == 1  # it moves every other state by itself
    assert cases.count("mlp") == 2 + 2 * 2


def test_rows_of_echoes_are_taken_from_their_own_module(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = script.compare("echo", "seconds", 1.0, "slm", 3.0, less_is_better=True)
    asked = []

    def rows(checkout: Path, rounds: int) -> list:
        asked.append((checkout, rounds))
        return [row]

    monkeypatch.setitem(sys.modules, "relaxation_echo", SimpleNamespace(rows=rows))
    out = tmp_path / "out.json"
    script.main(["--rounds", "2", "--slm", str(tmp_path), "--out", str(out)], ())
    assert asked == [(tmp_path.resolve(), 2)]
    assert json.loads(out.read_text())["rows"] == [vars(row)]


def test_rows_of_recurrent_echoes_are_added_where_they_are_asked_for(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = script.compare("recurrent", "seconds", 1.0, "bptt", 3.0, less_is_better=True)
    monkeypatch.setitem(sys.modules, "relaxation_recurrent", SimpleNamespace(rows=lambda rounds: [row] * rounds))
    out = tmp_path / "out.json"
    for flags, expected in (([], 0), (["--recurrent"], 2)):
        script.main(["--rounds", "2", "--out", str(out), *flags], ())
        assert json.loads(out.read_text())["rows"] == [vars(row)] * expected


def test_gradients_that_differ_are_not_timed(script: ModuleType) -> None:
    task = small(script)[0]
    ours = script.Ours(task, script.make_batch(task), order="synchronous")
    other = script.Ours(task, script.make_batch(task), order="synchronous")
    theirs = SimpleNamespace(
        parameters=lambda: list(other.rule.parameters()),
        gradients=lambda: other.rule.backward(other.x, other.y),
        step=lambda: None,
    )
    assert script.align(ours, theirs) < 1e-6
    other.rule.beta = 5.0
    with pytest.raises(SystemExit, match="gradients differ"):
        script.measure(task, theirs, "theirs", 1, 1)


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_layer_without_a_gradient_is_not_timed(script: ModuleType, side: str) -> None:
    task = small(script)[0]
    sides = {name: script.Ours(task, script.make_batch(task), order="synchronous") for name in ("ours", "theirs")}
    next(sides[side].rule.parameters()).requires_grad_(False)
    other = sides["theirs"]
    theirs = SimpleNamespace(
        parameters=lambda: list(other.rule.parameters()),
        gradients=lambda: other.rule.backward(other.x, other.y),
    )
    with pytest.raises(SystemExit, match=r"1\.weight has no gradient"):
        script.align(sides["ours"], theirs)


def test_the_page_says_of_steps_to_a_residual_what_was_measured() -> None:
    """At most twice as many in synchronous order, and less than twice, for a residual spans two of them."""
    rows = json.loads((BENCHMARKS / "results" / "relaxation_step.json").read_bytes())["rows"]
    ratios = [row["ratio"] for row in rows if row["metric"] == "steps" and "residual" in row["case"]]
    assert ratios
    assert all(1 <= ratio < 2 for ratio in ratios)


def test_the_commit_to_check_out_is_the_peers(script: ModuleType) -> None:
    for module in (script.relaxation_laborieux, script.relaxation_rain):
        assert f"checkout {module.COMMIT}\n" in script.__doc__


def test_a_weight_with_its_inputs_first_is_turned(script: ModuleType) -> None:
    value = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(script.arranged(value, torch.zeros(4, 6)), value.reshape(6, 4).t())
