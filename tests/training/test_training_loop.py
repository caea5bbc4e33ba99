"""The loop: what it takes, in which order it works, and what it leaves alone."""

import math

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
    train,
)
from torch import nn

from beyondprop.errors import UserError
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.solvers.least_squares import LeastSquares
from beyondprop.training import fit

pytestmark = pytest.mark.usefixtures("undrawn")


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
