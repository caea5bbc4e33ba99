"""What the loop records and tells: losses and accuracies, lines, a bar, TensorBoard."""

import pytest
import torch
from small_training import EpochStages, Training, as_generator_function, as_list, metrics, mlp, samples, train
from torch import nn

from beyondprop.errors import UserError
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training import RunFolder, fit

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(("growth", "told"), [(1.0, 0), (10.0, 1)])
def test_a_loss_that_grows_beyond_all_measure_is_told_once(caplog, growth, told):
    """By steps that grow tenfold the loss becomes 10^11, and every number is finite all the while."""

    class Growing(Backprop):
        scale = 1.0

        def assign_credit(self, x, y, phase):
            self.scale *= growth
            return self.scale * super().assign_credit(x, y, phase)

    train(as_list(), Growing(mlp()), epochs=3)
    warnings = [record.getMessage() for record in caplog.records if "diverges" in record.getMessage()]
    assert len(warnings) == told
    assert all("lower the learning rate" in text for text in warnings)


def test_accuracy_is_that_of_the_held_out_samples():
    """Held out are the training samples with other labels: what is right of those is wrong of these."""
    x, y = samples()
    rule = Backprop(mlp())
    found = train([(x, y)], rule, epochs=20, validation=[(x, (y + 1) % 3)]).epochs[-1]["validation_accuracy"]
    predicted = rule.eval()(x).argmax(dim=1)
    assert found == pytest.approx((predicted == (y + 1) % 3).double().mean().item())
    assert found < (predicted == y).double().mean().item()


def test_regression_has_a_loss_and_no_accuracy():
    x, _ = samples()
    rule = Backprop(nn.Linear(6, 2), loss=nn.MSELoss())
    pairs = [(x, x[:, :2])]
    epochs = train(pairs, rule, epochs=1, validation=pairs).epochs
    assert "validation_accuracy" not in epochs[0]
    assert epochs[0]["validation_loss"] > 0


def test_records_hold_the_mean_loss(tmp_path):
    Training().run(tmp_path)
    records = metrics(tmp_path)
    steps = [record["loss"] for record in records if "train_accuracy" not in record]
    epochs = [record for record in records if "train_accuracy" in record]
    assert [record["step"] for record in epochs] == [4, 8, 12]
    sizes = [6, 6, 6, 4]
    for epoch, record in enumerate(epochs):
        losses = steps[4 * epoch : 4 * epoch + 4]
        mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / 22
        assert record["loss"] == pytest.approx(mean)


def test_long_trainings_record_means_of_several_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("beyondprop.training.tracking.STEP_RECORDS", 200)
    x, y = samples(2)
    rule = Backprop(nn.Linear(6, 3))
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    with RunFolder(tmp_path, {}) as run:
        fit(rule, [(x, y)] * 600, optimizer=optimizer, epochs=1, run=run, progress=False)
    steps = [record["step"] for record in metrics(tmp_path)]
    assert steps[:3] == [3, 6, 9]
    assert len(steps) == 201


def test_a_line_an_epoch_where_there_is_no_terminal(capsys):
    rule = Backprop(mlp())
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    fit(rule, as_list(), optimizer=optimizer, epochs=2, validation=as_list())
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    assert "validation accuracy" in err
    train(as_list())
    assert capsys.readouterr() == ("", "")


def test_a_bar_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("beyondprop.training.trainer.REFRESH_SECONDS", 0.0)
    rule = EpochStages(mlp())
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    fit(rule, as_generator_function(), optimizer=optimizer, epochs=2)
    err = capsys.readouterr().err
    for text in ("epoch 1/2 4", "epoch 2/2", "loss ", "train accuracy ", "samples/s", "0:00:00 left"):
        assert text in err


def test_tensorboard_gets_scalars(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra is not installed")
    Training().run(tmp_path, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_missing_tensorboard_is_told(tmp_path, one_line, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with one_line(UserError, "pip install tensorboard"):
        Training().run(tmp_path, tensorboard=True)
