"""How the loop stops: weights or losses that are not finite, signals, and the checkpoint that is left."""

import math
import os
import signal

import pytest
import torch
from small_training import Training, as_list, metrics, same
from torch import nn

from beyondprop.errors import NonFiniteError
from beyondprop.training import Interrupted
from beyondprop.training.checkpoint import load

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """A shell that starts the tests in the background has them ignore SIGINT."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


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
