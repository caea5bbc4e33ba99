"""Alignment measured along a training: what is written, and that the training does not notice."""

import json

import pytest
from small_training import EpochStages, Training, TwoPhases, as_loader, metrics, same, samples

from beyondprop.cli import main
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.target_propagation import DTP
from beyondprop.training.curves import draw_comparison

pytestmark = pytest.mark.usefixtures("undrawn")

LAYERS = {"network.0", "network.1", "network.4"}


def aligned(folder):
    return [record for record in metrics(folder) if "alignment" in record]


@pytest.mark.parametrize("rule", [TwoPhases, EpochStages])
@pytest.mark.parametrize("batches", [None, as_loader], ids=["batches", "loader"])
def test_training_is_the_same_bit_for_bit(rule, batches, tmp_path):
    options = {} if batches is None else {"batches": batches}
    with_it = Training(rule, **options)
    with_it.run(tmp_path / "with", alignment_every=2, ema=0.9)
    without = Training(rule, **options)
    without.run(tmp_path / "without", ema=0.9)
    assert same(with_it.state(), without.state())
    others = [record for record in metrics(tmp_path / "with") if "alignment" not in record]
    assert others == metrics(tmp_path / "without")
    assert aligned(tmp_path / "with")


def test_records_say_step_and_every_layer(tmp_path):
    Training().run(tmp_path / "run", alignment_every=5)
    records = aligned(tmp_path / "run")
    assert [(record["step"], record["epoch"]) for record in records] == [(1, 1), (5, 2), (10, 3)]
    for record in records:
        assert record["alignment"] == {name: {"angle": 0.0, "norm_ratio": 1.0} for name in LAYERS}
    steps = [record["step"] for record in metrics(tmp_path / "run")]
    assert steps == sorted(steps)


def test_all_phases_of_a_step_stand_in_one_record(tmp_path):
    Training(TwoPhases).run(tmp_path / "run", alignment_every=100)
    (record,) = aligned(tmp_path / "run")
    assert set(record["alignment"]) == LAYERS


@pytest.mark.parametrize("kill_at", [4, 9, 12])
def test_resumed_training_has_the_same_records_and_weights(kill_at, tmp_path):
    whole = Training(TwoPhases)
    whole.run(tmp_path / "whole", alignment_every=2)
    broken = Training(TwoPhases)
    broken.run(tmp_path / "broken", alignment_every=2, kill_at=kill_at)
    again = Training(TwoPhases)
    again.run(tmp_path / "broken", alignment_every=2)
    assert same(whole.state(), again.state())
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


class Feedback(Backprop):
    """Has a phase that trains nothing of the network, and says so if it is asked to."""

    phases = ("feedback", None)

    def __init__(self, network, tells=True):
        super().__init__(network)
        self.tells, self.calls = tells, 0

    def teaches_network(self, phase=None):
        return phase is None or not self.tells

    def assign_credit(self, x, y, phase):
        self.calls += phase == "feedback"
        loss = super().assign_credit(x, y, None)
        if phase == "feedback":
            self.zero_grad()
        return loss


@pytest.mark.parametrize("tells", [True, False])
def test_phases_of_feedback_alone_are_not_measured(tells, tmp_path):
    training = Training(lambda network: Feedback(network, tells))
    training.run(tmp_path / "run", alignment_every=4)
    assert training.rule.calls == 12 + (0 if tells else 4)
    assert all(set(record["alignment"]) == LAYERS for record in aligned(tmp_path / "run"))


def test_stages_of_feedback_alone_have_no_record(tmp_path):
    training = Training(lambda network: DTP(network, samples()[0], pretraining=1, feedback_steps=2), schedule=False)
    training.run(tmp_path / "run", alignment_every=2, gauss_newton_every=2)
    records = metrics(tmp_path / "run")
    for kind in ("alignment", "gauss_newton"):
        found = [record for record in records if kind in record]
        assert [record["step"] for record in found] == [6, 8, 10, 12, 14, 16]
        assert all(set(record[kind]) == LAYERS for record in found)


def test_a_phase_that_teaches_nothing_leaves_no_empty_record(tmp_path):
    class Silent(Backprop):
        def assign_credit(self, x, y, phase):
            loss = super().assign_credit(x, y, phase)
            self.zero_grad()
            return loss

    Training(Silent).run(tmp_path / "run", alignment_every=1)
    assert not aligned(tmp_path / "run")


def test_measuring_takes_no_training_time(tmp_path, monkeypatch):
    import time

    from beyondprop.training import trainer

    measured = trainer.alignment

    def slow(*arguments):
        time.sleep(1)
        return measured(*arguments)

    monkeypatch.setattr(trainer, "alignment", slow)
    result = Training().run(tmp_path / "run", alignment_every=100)
    assert result.seconds < 1


def test_gauss_newton_records_stand_beside_and_change_nothing(tmp_path):
    with_it = Training()
    with_it.run(tmp_path / "with", gauss_newton_every=5, alignment_every=5)
    without = Training()
    without.run(tmp_path / "without", alignment_every=5)
    assert same(with_it.state(), without.state())
    records = [record for record in metrics(tmp_path / "with") if "gauss_newton" in record]
    assert [(record["step"], record["epoch"]) for record in records] == [(1, 1), (5, 2), (10, 3)]
    for record in records:
        assert set(record["gauss_newton"]) == LAYERS
        for found in record["gauss_newton"].values():
            assert 0 <= found["angle"] < 180
            assert found["null_space"] < 1e-2  # back-propagation, in float32
    others = [record for record in metrics(tmp_path / "with") if "gauss_newton" not in record]
    assert others == metrics(tmp_path / "without")
    assert (tmp_path / "with" / "gauss-newton.png").read_bytes() == b"comparison"
    assert not (tmp_path / "without" / "gauss-newton.png").exists()


@pytest.mark.parametrize("layers", [0, 1, 3, 40])
def test_picture_of_gauss_newton_takes_any_number_of_layers_and_gaps(layers):
    figures = {"angle": None, "norm_ratio": 1.0, "null_space": 0.5}
    measured = {f"network.{n}": figures | {"angle": None if n == 1 else 4.0 * n} for n in range(layers)}
    records = [{"step": 1, "epoch": 1, "gauss_newton": measured}, {"step": 2, "epoch": 1, "gauss_newton": {}}]
    assert draw_comparison("gauss_newton", [*records, {"step": 2, "epoch": 1, "loss": 1.0}], "title").startswith(
        b"\x89PNG"
    )


@pytest.mark.parametrize("layers", [0, 1, 3, 40])
def test_picture_takes_any_number_of_layers_and_gaps(layers):
    measured = {f"network.{n}": {"angle": None if n == 1 else 20.0 * n, "norm_ratio": 10.0**n} for n in range(layers)}
    records = [{"step": 1, "epoch": 1, "alignment": measured}, {"step": 2, "epoch": 1, "alignment": {}}]
    assert draw_comparison("alignment", [*records, {"step": 2, "epoch": 1, "loss": 1.0}], "title").startswith(
        b"\x89PNG"
    )


def test_command_line_writes_numbers_and_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "train fa/digits --epochs 1 --hidden 8 --threads 1 --quiet"
    assert main([*line.split(), "--out", "with", "--alignment-every", "6"]) == 0
    assert main([*line.split(), "--out", "without"]) == 0
    folder = tmp_path / "with"
    assert (folder / "alignment.png").read_bytes() == b"comparison"
    assert not (tmp_path / "without" / "alignment.png").exists()
    records = aligned(folder)
    assert [record["step"] for record in records] == [1, 6, 12]
    assert all(list(record["alignment"]) == ["network.1", "network.3", "network.5"] for record in records)
    assert 60 < records[0]["alignment"]["network.1"]["angle"] < 120
    assert records[0]["alignment"]["network.5"]["angle"] == pytest.approx(0, abs=1e-2)
    for name in ("with", "without"):
        (weights,) = (tmp_path / name).glob("checkpoint-*/model.safetensors")
        (tmp_path / f"{name}.bin").write_bytes(weights.read_bytes())
    assert (tmp_path / "with.bin").read_bytes() == (tmp_path / "without.bin").read_bytes()
    assert json.loads((folder / "settings.json").read_text())["settings"]["hidden"] == 8


def test_tensorboard_gets_angles_and_ratios(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Training().run(tmp_path / "run", alignment_every=6, tensorboard=True)
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    points = read.Scalars("alignment/angle/network.0")
    assert [(point.step, point.value) for point in points] == [(1, 0.0), (6, 0.0), (12, 0.0)]
    assert "alignment/norm_ratio/network.4" in read.Tags()["scalars"]
