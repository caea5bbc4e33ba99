import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import relaxation_accuracy

    return relaxation_accuracy


def task(script: ModuleType):
    return script.relaxation_step.Task("mlp", "laborieux", (1, 4, 4), (8,), "steep-sigmoid", 10, 30, 4, 0.1)


def images(script: ModuleType):
    """Two classes, told by which half of the image is bright."""
    y = torch.arange(60) % 2
    x = torch.zeros(60, 1, 4, 4)
    x[y == 0, :, :2] = 1.0
    x[y == 1, :, 2:] = 1.0
    return script.Images(x[:40], y[:40], x[40:], y[40:])


def test_a_side_is_trained_until_it_reaches_the_goal(script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    race = script.Race(task(script), 12, 4, 0.99, 2, 400, tune_both=True)
    script.main(["--out", str(out), "--rates", "0.02", "0.01"], (race,), images(script))
    seconds, steps = json.loads(out.read_text())["rows"]
    assert (seconds["metric"], steps["metric"]) == ("seconds", "steps")
    assert seconds["ours"] > 0
    assert 0 < steps["ours"] <= 400
    assert steps["ours"] % 2 == 0
    assert seconds["peer_value"] is seconds["ratio"] is None
    assert "99% of held-out images" in seconds["case"]


def test_what_never_reaches_the_goal_is_no_result(script: ModuleType, tmp_path: Path) -> None:
    race = script.Race(task(script), 12, 4, 1.01, 2, 4, tune_both=True)
    with pytest.raises(SystemExit, match="no rate led to 101% in 4 steps"):
        script.main(["--out", str(tmp_path / "x"), "--rates", "0.01"], (race,), images(script))
    assert not (tmp_path / "x").exists()


def test_a_peer_is_trained_by_its_own_step_and_measured_in_its_own_weights(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stub(script.relaxation_step.Ours):
        taken = 0

        def __init__(self, peer, task, batch):
            super().__init__(task, batch, order="synchronous")

        def parameters(self):
            return list(self.rule.parameters())

        def gradients(self):
            self.rule.zero_grad()
            self.rule.backward(self.x, self.y)

        def step(self):
            Stub.taken += 1
            super().step()

    monkeypatch.setattr(script.relaxation_laborieux, "Theirs", Stub)
    race = script.Race(task(script), 12, 4, 0.99, 2, 400, tune_both=False)
    seconds, steps = script.measure(race, images(script), object(), [0.02], 1)
    assert steps.peer_value == Stub.taken
    assert seconds.ratio == pytest.approx(seconds.peer_value / seconds.ours)


def test_batches_go_on_without_end_in_one_order(script: ModuleType) -> None:
    given = images(script)
    first, second = ([y.tolist() for (_, y), _ in zip(given.batches(15), range(6), strict=False)] for _ in range(2))
    assert first == second
    assert len(first) == 6
    assert all(len(batch) == 15 for batch in first)
