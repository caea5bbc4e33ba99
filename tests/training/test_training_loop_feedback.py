"""The feedback's loss stands beside the network's, in records and in lines."""

import re
from dataclasses import asdict

import pytest
import torch
from small_training import as_list, metrics, samples
from torch import nn

from beyondprop.rules.signals.l_drl import LDRL
from beyondprop.rules.signals.target_propagation import DTP
from beyondprop.training import RunFolder, fit
from beyondprop.training.tracking import Sums, Totals

pytestmark = pytest.mark.usefixtures("undrawn")


def pretrained():
    torch.manual_seed(0)
    rule = DTP(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), samples()[0], pretraining=2, extra_epochs=1)
    rule.noises = lambda values: [0.1 * torch.ones_like(value) for value in values]
    return rule


def test_the_feedbacks_loss_stands_beside_the_networks(tmp_path):
    """Of steps and epochs; each epoch's is the mean over the images of its own passes."""
    rule, seen = pretrained(), []
    optimizer, assign_credit = torch.optim.SGD(rule.parameters(), lr=0.1), rule.assign_credit

    def note(x, y, phase):
        loss = assign_credit(x, y, phase)
        seen.append((rule.stage, len(x), loss.item()))
        return loss

    rule.assign_credit = note
    with RunFolder(tmp_path, {}) as run:
        epochs = fit(rule, as_list(), optimizer=optimizer, epochs=2, run=run, progress=False).epochs
    steps = [record for record in metrics(tmp_path) if "train_accuracy" not in record]
    for record, (stage, _, loss) in zip(steps, seen, strict=True):
        name, other = ("loss", "feedback_loss") if stage == "both" else ("feedback_loss", "loss")
        assert record[name] == pytest.approx(loss)
        assert other not in record

    def mean(stage, passes):
        part = [(count, loss) for number in passes for at, count, loss in seen[4 * number : 4 * number + 4]]
        assert {at for number in passes for at, *_ in seen[4 * number : 4 * number + 4]} == {stage}
        return pytest.approx(sum(count * loss for count, loss in part) / 22)

    assert [record.get("feedback_loss") for record in epochs] == [mean("feedback", [n]) for n in (0, 1, 3, 5)]
    assert [record.get("loss") for record in epochs] == [None, None, mean("both", [2]), mean("both", [4])]
    assert [record.get("stage") for record in epochs] == ["feedback", "feedback", None, None]


def test_a_phase_of_feedback_alone_has_its_loss_beside(tmp_path):
    rule = LDRL(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), samples()[0], feedback_steps=2)
    seen, assign_credit = [], rule.assign_credit

    def note(x, y, phase):
        seen.append(assign_credit(x, y, phase))
        return seen[-1]

    rule.assign_credit = note
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.01)
    with RunFolder(tmp_path, {}) as run:
        fit(rule, as_list(), optimizer=optimizer, epochs=1, run=run, progress=False)
    steps = [record for record in metrics(tmp_path) if "train_accuracy" not in record]
    assert [record["feedback_loss"] for record in steps] == [pytest.approx(loss.item()) for loss in seen[::3]]
    assert [record["loss"] for record in steps] == [pytest.approx(loss.item()) for loss in seen[2::3]]


def test_a_line_names_the_stage_and_tells_the_feedbacks_loss(capsys):
    rule = pretrained()
    fit(rule, as_list(), optimizer=torch.optim.SGD(rule.parameters(), lr=0.1), epochs=1)
    lines = [re.sub(r"\d+(\.\d+)?(e-\d+)?%?", "0", line) for line in capsys.readouterr().err.splitlines()]
    alone = "epoch 0/0 feedback  feedback loss 0  train accuracy 0"
    assert [line.rpartition("  ")[0] for line in lines[:2]] == [alone] * 2
    assert lines[2].rpartition("  ")[0] == "epoch 0/0  loss 0  feedback loss 0  train accuracy 0"


def test_sums_of_a_checkpoint_that_knew_one_loss_go_on():
    saved = asdict(Totals(step=5, epoch_images=12))
    del saved["losses"]
    saved |= {"epoch_loss": 3.0, "recent_loss": 1.5, "recent_steps": 2, "smoothed": 0.7}
    totals = Totals.restored(saved)
    assert (totals.step, totals.epoch_images) == (5, 12)
    assert totals.losses == {"loss": Sums(3.0, 12, 1.5, 2, 0.7)}
    assert Totals.restored(asdict(totals)) == totals
    fresh = {**saved, "smoothed": None}
    assert Totals.restored(fresh).losses["loss"].smoothed is None
