"""Going on from a checkpoint leads to the same bits as never having stopped."""

import pytest
import torch
from small_training import (
    EpochStages,
    Training,
    TrainingStages,
    TwoPhases,
    as_batches,
    as_generator_function,
    as_list,
    as_loader,
    as_loader_with_generator,
    metrics,
    same,
    samples,
)

from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.target_propagation import DTP

pytestmark = pytest.mark.usefixtures("undrawn")

CASES = {
    "batches": (Backprop, as_batches),
    "list": (Backprop, as_list),
    "loader": (Backprop, as_loader),
    "loader with its own generator": (Backprop, as_loader_with_generator),
    "generator function": (Backprop, as_generator_function),
    "two phases": (TwoPhases, as_batches),
    "stages of the training": (TrainingStages, as_loader),
    "stages of every epoch": (EpochStages, as_loader),
}


@pytest.mark.parametrize(("rule", "batches"), CASES.values(), ids=CASES)
def test_resuming_at_every_step_gives_the_same_bits(tmp_path, rule, batches):
    whole = Training(rule, batches)
    result = whole.run(tmp_path / "whole")
    steps = 12 * len(whole.rule.stages)
    assert result.steps == steps
    calls = steps * len(whole.rule.phases)
    # The first case is killed at every call. Of the others every third or fifth does: with 4 batches a pass, every
    # place in a pass still occurs.
    first = (rule, batches) == CASES["batches"]
    for kill_at in range(1, calls + 1, 1 if first else 3 if calls <= 12 else 5):
        folder = tmp_path / str(kill_at)
        assert Training(rule, batches).run(folder, kill_at=kill_at) is None
        resumed = Training(rule, batches)
        if kill_at > len(whole.rule.phases):  # there is a checkpoint; without one, the training begins anew
            torch.manual_seed(99)
        again = resumed.run(folder)
        assert same(resumed.state(), whole.state()), kill_at
        assert metrics(folder) == metrics(tmp_path / "whole"), kill_at
        assert (again.steps, again.images) == (result.steps, result.images)


def test_resuming_from_epoch_ends_and_several_kills_gives_the_same_bits(tmp_path):
    whole = Training(schedule=False)
    whole.run(tmp_path / "whole", checkpoint_seconds=1e9)
    for kill_at in (3, 6, 2):
        Training(schedule=False).run(tmp_path / "killed", kill_at=kill_at, checkpoint_seconds=1e9)
    resumed = Training(schedule=False)
    resumed.run(tmp_path / "killed", checkpoint_seconds=1e9)
    assert same(resumed.state(), whole.state())
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def pretrained(network):
    return DTP(network, samples()[0], pretraining=2, extra_epochs=1)


# 4 batches a pass: 2 passes of pretraining, then both, feedback, both, feedback, ...
@pytest.mark.parametrize("kill_at", [2, 5, 7, 9, 11, 13, 14, 17, 23, 31])
def test_resuming_inside_pretraining_and_extra_epochs_gives_the_same_bits(tmp_path, kill_at):
    whole = Training(pretrained, schedule=False)
    assert whole.run(tmp_path / "whole").steps == 4 * (2 + 2 * 3)
    start = Training(pretrained, schedule=False).rule.state_dict()
    assert Training(pretrained, schedule=False).run(tmp_path / "killed", kill_at=kill_at) is None
    resumed = Training(pretrained, schedule=False)
    torch.manual_seed(99)
    resumed.run(tmp_path / "killed")
    assert same(resumed.state(), whole.state())
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert not same(start, whole.rule.state_dict())
    steps = [record for record in metrics(tmp_path / "killed") if "train_accuracy" not in record]
    stages = [record["stage"] for record in steps]
    assert stages == 8 * ["feedback"] + 3 * (4 * ["both"] + 4 * ["feedback"])


def test_a_finished_training_resumes_to_itself(tmp_path):
    first = Training()
    first.run(tmp_path)
    again = Training()
    again.run(tmp_path, kill_at=1)  # not one more step
    assert same(again.state(), first.state())


def test_the_time_of_all_pieces_is_summed(tmp_path):
    Training().run(tmp_path, kill_at=7)
    before = Training()
    result = before.run(tmp_path)
    times = [record["seconds"] for record in result.epochs]
    assert times == sorted(times)
    assert result.seconds >= times[-1] > 0
    assert result.peak_memory_bytes > 10 * 2**20


def test_resuming_with_other_data_is_refused(tmp_path, one_line):
    from beyondprop.errors import UserError

    Training(batches=as_list).run(tmp_path, kill_at=4)
    shorter = Training(batches=lambda: as_list()[:2])
    with one_line(UserError, "the batches end after 2", "same data"):
        shorter.run(tmp_path)


def test_resuming_with_another_network_or_optimizer_is_refused(tmp_path, one_line):
    from beyondprop.errors import RunError

    Training().run(tmp_path, kill_at=4)
    other = Training()
    other.rule = Backprop(torch.nn.Linear(6, 3))
    other.optimizer, other.scheduler = torch.optim.AdamW(other.rule.parameters()), None
    with one_line(RunError, "does not fit Backprop", "network"):
        other.run(tmp_path)
    other = Training()
    groups = [{"params": [p]} for p in other.rule.parameters()]
    other.optimizer = torch.optim.SGD(groups, lr=0.1)
    with one_line(RunError, "another optimizer"):
        other.run(tmp_path)
    with one_line(RunError, "another learning-rate schedule"):
        Training(schedule=False).run(tmp_path)
