import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(params=["inversion_step", "inversion_stability"])
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(request.param, monkeypatch)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__(name)


def test_steps_stand_beside_back_propagation_at_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("inversion_step", monkeypatch)
    out = tmp_path / "inversion_step.json"
    shapes = (script.Shape(5, 3, 4, 4), script.Shape(7, 2, 4, 1))
    script.main(["--rounds", "3", "--out", str(out)], shapes, hidden=6)
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 4 * len(shapes)
    for row in rows:
        assert row["ours"] > 0
        if row["peer"] == script.PEER:
            assert row["peer_value"] is None
        else:
            assert row["ratio"] == pytest.approx(row["peer_value"] / row["ours"])
    steps = script.sides(shapes[0], 6, None)
    assert set(steps) == {"tp-ri tanh", "bp tanh", "tp-ri gru", "bp gru", "local tanh"}


@pytest.mark.slow
def test_stability_writes_its_file_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("inversion_stability", monkeypatch)
    out = tmp_path / "stability.json"
    script.main(
        [
            *["--seeds", "1", "--steps", "30", "--length", "10", "--cures", "clipped", "bounded", "cosine"],
            "--out",
            str(out),
            "--pictures",
            str(tmp_path),
        ]
    )
    rows = json.loads(out.read_text())["rows"]
    assert {row["case"].split(",")[0] for row in rows} == {"bp", "tp-ri"}
    assert {row["case"].split(", ")[1] for row in rows} == {"constant", "clipped", "bounded", "cosine"}
    assert (tmp_path / "inversion-stability.svg").exists()
    assert script.settings_of("constant").clip_surge == 0
    assert script.settings_of("clipped").clip_surge > 0


def test_the_cures_bound_the_step_and_let_the_rate_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """By how far the recurrent weights move in a step; back-propagation's norms without the factor are g times them."""
    script = load("inversion_stability", monkeypatch)
    monkeypatch.setattr(script, "BOUND", 1e-3)
    settings = script.settings_of("constant")
    moved: dict[str, list[float]] = {}
    made, kept = script.make_optimizer, []

    def make(rule: object, own: object) -> torch.optim.Optimizer:
        optimizer = made(rule, own)
        weights = optimizer.param_groups[0]["params"]
        note = lambda *_: kept.append([p.detach().clone() for p in weights])  # noqa: E731
        optimizer.register_step_pre_hook(note)
        optimizer.register_step_post_hook(note)
        return optimizer

    monkeypatch.setattr(script, "make_optimizer", make)
    for name in script.RULES:
        for cure in ("constant", "bounded", "cosine"):
            kept.clear()
            run = script.train(name, cure, 0, 20, 10)
            steps = [
                torch.cat([(a - b).flatten() for a, b in zip(*pair, strict=True)]).norm().item()
                for pair in zip(kept[::2], kept[1::2], strict=True)
            ]
            moved[cure] = [step / (settings.learning_rate * settings.recurrent_step) for step in steps]
            assert all(norm > 2e-3 for norm in run.norms)  # they are told as they were
            if cure == "constant":
                assert moved[cure] == pytest.approx(run.norms, rel=0.05, abs=1e-3)
        assert moved["bounded"] == pytest.approx([1e-3] * 20, rel=0.2, abs=2e-4)
        assert moved["cosine"][-1] < 0.02 * moved["constant"][-1]


@pytest.mark.slow
def test_trainings_that_are_kept_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("inversion_stability", monkeypatch)
    flags = ["--seeds", "1", "--steps", "30", "--length", "10", "--kept", str(tmp_path / "kept"), "--pictures"]
    written = []
    for _ in range(2):
        script.main([*flags, str(tmp_path), "--out", str(tmp_path / "out.json")])
        written.append(json.loads((tmp_path / "out.json").read_text())["rows"])
        monkeypatch.setattr(script, "train", None)
    assert written[0] == written[1]


def test_losses_of_a_solution_are_found_where_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("inversion_stability", monkeypatch)
    run = script.Run(right=[0.5, *[1.0] * 12, 0.3, 1.0, 0.2], bends={50: 1.0, 330: 4.0, 334: 5.0})
    assert run.avalanches() == [(330, 14 * script.EVERY)]  # the second was solved too shortly before
    assert run.stayed == pytest.approx(13 / 15)
    assert script.Run(right=[0.5, 0.6]).stayed == 0


def test_curvature_is_that_of_the_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("inversion_stability", monkeypatch)
    torch.manual_seed(0)
    network = script.SequenceReader(6, 4, hidden=5).double()
    x, y = torch.randn(8, 6, 6).double(), torch.randint(4, (8,))
    weights = list(network.rnn.parameters())
    gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(network(x), y), weights, create_graph=True)
    g = torch.cat([part.flatten() for part in gradients])
    products = torch.autograd.grad(g @ g.detach(), weights)
    h = torch.cat([part.flatten() for part in products])
    expected = float(g.detach() @ h / (g.detach() @ g.detach()))
    assert script.curvature(network, x, y, distance=1e-7) == pytest.approx(expected, rel=1e-3)


def test_scripts_tell_what_they_do(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert f"python benchmarks/{script.__name__}.py" in capsys.readouterr().out
