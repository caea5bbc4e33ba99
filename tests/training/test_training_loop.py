"""The loop: what it takes, in which order it works, how it stops, and what it leaves alone."""

import math
import os
import re
import signal
from dataclasses import asdict

import pytest
import torch
from small_training import (
    EpochStages,
    Training,
    TrainingStages,
    TwoPhases,
    as_generator_function,
    as_list,
    as_loader,
    metrics,
    mlp,
    same,
    samples,
)
from torch import nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.l_drl import LDRL
from beyondprop.rules.signals.target_propagation import DTP
from beyondprop.solvers.least_squares import LeastSquares
from beyondprop.training import Interrupted, RunFolder, fit
from beyondprop.training.checkpoint import load
from beyondprop.training.tracking import Sums, Totals

pytestmark = pytest.mark.usefixtures("fast")


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """A shell that starts the tests in the background has them ignore SIGINT."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def train(batches, rule=None, epochs=2, **options):
    rule = rule or Backprop(mlp())
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    return fit(rule, batches, optimizer=optimizer, epochs=epochs, progress=False, **options)


def test_callbacks_are_told_of_every_step_by_its_number():
    told = []

    class Telling:
        def before_step(self, step, _optimizer):
            told.append(("before", step))

        def after_step(self, step, _optimizer):
            told.append(("after", step))

    train(as_list(), callbacks=[Telling()])
    steps = 2 * len(as_list())
    assert steps > 2
    assert told == [(when, step) for step in range(1, steps + 1) for when in ("before", "after")]


def test_weights_that_a_step_broke_are_not_saved(tmp_path, one_line):
    """The loss was still finite; the checkpoint from before the step stays."""
    breaks = Training(schedule=False)
    tidy = breaks.optimizer.step
    steps = 0

    def step():
        nonlocal steps
        tidy()
        steps += 1
        if steps == 3:
            with torch.no_grad():
                next(breaks.rule.parameters())[0] = torch.nan

    breaks.optimizer.step = step
    with one_line(NonFiniteError, "last checkpoint"):
        breaks.run(tmp_path)
    assert load(tmp_path).step == 2


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


def test_an_optimizer_of_another_network_is_refused():
    network = nn.Linear(3, 2)
    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]
    stranger = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"rule\.parameters\(\)"):
        fit(Backprop(network), batches, optimizer=stranger, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda ps: [torch.optim.SGD(ps, 0.1)], "groups of one optimizer"),
        (torch.optim.LBFGS, "steps without a closure, not LBFGS"),
    ],
)
def test_optimizers_that_the_loop_cannot_step_are_refused(made, words, one_line):
    rule = Backprop(mlp())
    with one_line(UserError, words):
        fit(rule, as_list(), optimizer=made(rule.parameters()), epochs=1, progress=False)


def test_a_scheduler_that_waits_for_figures_and_a_solver_are_refused(one_line):
    rule = Backprop(mlp())
    optimizer = torch.optim.SGD(rule.parameters(), 0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with one_line(UserError, "ReduceLROnPlateau"):
        fit(rule, as_list(), optimizer=optimizer, scheduler=plateau, epochs=1, progress=False)
    with one_line(UserError, "LeastSquares is no rule", "fit_batches"):
        fit(LeastSquares(3, 2), as_list(), optimizer=optimizer, epochs=1, progress=False)


def test_tensors_that_no_group_holds_are_named(caplog):
    rule = Backprop(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    rule.network[0].bias.requires_grad_(False)  # chosen, and no mistake
    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]
    for parameters, told in ((rule.network[2:].parameters(), ["1 of the rule's"]), (rule.parameters(), [])):
        caplog.clear()
        fit(rule, batches, optimizer=torch.optim.SGD(parameters, 0.1), epochs=1, progress=False)
        assert [record.getMessage()[:15] for record in caplog.records] == told
        assert all("(network.0.weight)" in record.getMessage() for record in caplog.records)


def test_it_equals_the_loop_a_user_would_write():
    torch.manual_seed(0)
    ours, theirs = Backprop(mlp()), Backprop(mlp())
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(1)
    fit(ours, as_list(), optimizer=torch.optim.Adam(ours.parameters(), lr=0.01), epochs=3, progress=False)
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for _ in range(3):
        for x, y in as_list():
            optimizer.zero_grad()
            theirs.backward(x, y)
            optimizer.step()
    assert same(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Backprop, [(None, None)] * 4),
        (TwoPhases, [(None, "first"), (None, "last")] * 4),
        (TrainingStages, [("0", None)] * 4 + [("4", None)] * 4),
        (EpochStages, [("0", None), ("0", None), ("4", None), ("4", None)] * 2),
    ],
)
def test_stages_and_phases_follow_their_order(rule, expected):
    rule = rule(mlp())
    seen, assign_credit = [], rule.assign_credit

    def note(x, y, phase):
        seen.append((rule.stage, phase))
        return assign_credit(x, y, phase)

    rule.assign_credit = note
    train(as_list()[:2], rule, epochs=2)
    assert seen == expected


def test_epochs_are_counted_through_the_stages():
    epochs = train(as_list(), TrainingStages(mlp()), epochs=2).epochs
    assert [(record["epoch"], record["stage"]) for record in epochs] == [(1, "0"), (2, "0"), (3, "4"), (4, "4")]
    epochs = train(as_list(), EpochStages(mlp()), epochs=2).epochs
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert "stage" not in epochs[0]


def test_a_phase_leaves_the_other_parameters_alone():
    rule = TwoPhases(mlp())
    optimizer = torch.optim.AdamW(rule.parameters(), lr=0.1)
    fit(rule, as_list(), optimizer=optimizer, epochs=1, progress=False)
    steps = {int(optimizer.state[parameter]["step"]) for parameter in rule.parameters()}
    assert steps == {4}  # one step a batch for each, though there were two for every batch


def test_the_schedule_steps_once_a_batch(tmp_path):
    training = Training(TwoPhases)
    training.run(tmp_path)
    assert training.scheduler.last_epoch == 12
    rates = [record["learning_rate"] for record in metrics(tmp_path) if "train_accuracy" not in record]
    assert rates[0] == pytest.approx(0.05 / 25)
    assert max(rates) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("form", [as_list, as_loader, as_generator_function], ids=lambda form: form.__name__)
def test_any_iterable_of_pairs_is_taken(form):
    result = train(form(), epochs=3)
    assert (result.steps, result.images) == (12, 66)
    assert result.images_per_second == pytest.approx(result.images / result.seconds)
    assert all(0 <= record["train_accuracy"] <= 1 for record in result.epochs)


def test_arrays_and_the_old_sequence_protocol_are_taken():
    class Sequence:
        def __getitem__(self, index):
            return tuple(part.numpy() for part in as_list()[index])

    assert train(Sequence()).steps == 8


def test_an_exhausted_generator_is_told(one_line):
    assert train(iter(as_list()), epochs=1).steps == 4
    with one_line(UserError, "ran out after 1 of 2 passes", "DataLoader"):
        train((pair for pair in as_list()), epochs=2)


@pytest.mark.parametrize(
    ("batches", "named"),
    [
        ([], "the batches are empty"),
        (5, "not int"),
        ([torch.ones(2, 6)], "pair (x, y)"),
        ([(torch.ones(2, 6), torch.zeros(2), torch.zeros(2))], "pair (x, y) of tensors, not 3 things"),
        ([("a", "b")], "pair (x, y) of tensors, not 2 things (str, str)"),
        ([(torch.ones(6), torch.tensor(1))], "batch the data first"),
        ([(torch.ones(2, 6), torch.zeros(3, dtype=torch.int64))], "2 inputs, 3 targets"),
    ],
)
def test_what_is_no_batches_is_told(one_line, batches, named):
    with one_line(UserError, named):
        train(batches)


def test_arguments_out_of_range_are_told(one_line):
    with one_line(UserError, "epochs must be at least 1"):
        train(as_list(), epochs=0)
    with one_line(UserError, "checkpoint_seconds"):
        train(as_list(), checkpoint_seconds=math.nan)
    with one_line(UserError, "precision must be one of float32, bf16"):
        train(as_list(), precision="float16")
    with one_line(UserError, "TensorBoard needs a run folder"):
        train(as_list(), tensorboard=True)


class Noisy(Backprop):
    """Draws where it predicts, and notes the modes in which it was asked to."""

    def __init__(self, network):
        super().__init__(network)
        self.modes = []

    def forward(self, x, spread=1.0):
        self.modes.append((self.training, torch.is_inference_mode_enabled(), spread))
        return super().forward(x) + spread * torch.randn(len(x), 3)


def test_evaluation_does_not_disturb_the_training():
    ends = []
    for validation in (None, as_list()[:1], as_loader()):
        torch.manual_seed(0)
        rule = Noisy(mlp())
        rule.network[1].eval()  # frozen by the user between two trainings; fit trains everything
        result = train(as_loader(), rule, validation=validation, inference={"spread": 3.0})
        ends.append((rule.state_dict(), torch.get_rng_state()))
        assert set(rule.modes) == {(False, True, 3.0)}
        assert rule.training
        assert rule.network[1].training
        names = {name for name in result.epochs[0] if "accuracy" in name}
        assert names == {"train_accuracy" if validation is None else "validation_accuracy"}
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


def test_accuracy_is_that_of_the_held_out_samples():
    """Held out are the training samples with other labels: what is right of those is wrong of these."""
    x, y = samples()
    rule = Backprop(mlp())
    found = train([(x, y)], rule, epochs=1, validation=[(x, (y + 1) % 3)]).epochs[-1]["validation_accuracy"]
    predicted = rule.eval()(x).argmax(dim=1)
    assert found == pytest.approx((predicted == (y + 1) % 3).double().mean().item())
    assert found != pytest.approx((predicted == y).double().mean().item())


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


def test_long_trainings_record_means_of_several_steps(tmp_path):
    x, y = samples(2)
    rule = Backprop(nn.Linear(6, 3))
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    with RunFolder(tmp_path, {}) as run:
        fit(rule, [(x, y)] * 6000, optimizer=optimizer, epochs=1, run=run, progress=False)
    steps = [record["step"] for record in metrics(tmp_path)]
    assert steps[:3] == [3, 6, 9]
    assert len(steps) == 2001


@pytest.mark.parametrize("silent", [False, True], ids=["rule raises", "rule says nothing"])
def test_nan_stops_the_training_with_the_checkpoint_whole(tmp_path, one_line, silent):
    training = Training(batches=as_list, schedule=False)
    training.batches[2] = (torch.full((6, 6), math.nan), training.batches[2][1])
    if silent:
        training.rule.loss = nn.CrossEntropyLoss()
        training.rule.assign_credit = lambda x, y, _: training.rule.loss(training.rule.network(x), y)
    with one_line(NonFiniteError, "nan" if silent else "the input"):
        training.run(tmp_path)
    saved = load(tmp_path)
    assert saved.step == 2
    assert all(value.isfinite().all() for value in saved.model.values())
    assert [record["step"] for record in metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resuming_gives_the_same_bits(tmp_path, one_line, number):
    whole = Training()
    whole.run(tmp_path / "whole")
    former = signal.getsignal(number)
    stopped = Training()
    assign_credit = stopped.rule.assign_credit

    def interrupted(*arguments):
        if stopped.optimizer.state and stopped.scheduler.last_epoch == 5:
            os.kill(os.getpid(), number)
        return assign_credit(*arguments)

    stopped.rule.assign_credit = interrupted
    with one_line(Interrupted, "interrupted after 6 steps", "resume to go on") as _:
        stopped.run(tmp_path / "run", checkpoint_seconds=1e9)
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert signal.getsignal(number) is former
    assert load(tmp_path / "run").step == 6
    assert (tmp_path / "run" / "curves.png").exists()  # of what there is, for a look at it
    resumed = Training()
    resumed.run(tmp_path / "run", checkpoint_seconds=1e9)
    assert same(resumed.state(), whole.state())


def test_a_signal_stops_a_long_evaluation(tmp_path):
    def validation():
        for pair in as_list():
            os.kill(os.getpid(), signal.SIGTERM)
            yield pair

    before = torch.get_rng_state()
    with pytest.raises(Interrupted):
        Training().run(tmp_path, validation=validation)
    assert load(tmp_path).step == 4
    assert torch.get_rng_state().shape == before.shape


def test_a_second_ctrl_c_is_obeyed_at_once(tmp_path):
    training = Training()
    assign_credit = training.rule.assign_credit

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return assign_credit(*arguments)

    training.rule.assign_credit = interrupted
    with pytest.raises(KeyboardInterrupt) as caught:
        training.run(tmp_path)
    assert not isinstance(caught.value, Interrupted)


def test_bf16_trains_with_float32_weights(tmp_path):
    seen = []

    class Watched(Backprop):
        def forward(self, x):
            seen.append(self.network(x).dtype)
            return super().forward(x)

    rule = Watched(nn.Linear(6, 3))
    losses = [record["loss"] for record in train(as_list(), rule, epochs=8, precision="bf16").epochs]
    assert losses[-1] < losses[0]
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in rule.parameters()} == {torch.float32}


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
