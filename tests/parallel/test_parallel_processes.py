"""Several real processes at once: what they send, what they do not, and what they come to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_parts import (
    EVALUATING,
    EXECUTION,
    RECIPE,
    SEEDS,
    NoiseFree,
    small_batch,
    small_rule,
    small_settings,
    small_splits,
)

from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.parallel import combine
from beyondprop.training import checkpoint


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The folder of what the processes have left."""
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("processes.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "told.txt").write_text(done.stderr)
    return folder


def model(folder):
    return load_file(checkpoint.standing(folder)[-1][1] / "model.safetensors")


def test_with_a_fixed_embedding_nothing_can_be_sent_while_they_train(left):
    for rank in range(2):
        seen = json.loads((left / f"seen-{rank}.json").read_text())
        assert len(seen["seen"]) == 2 * 5  # steps of two epochs
        assert all(step == [False, 0] for step in seen["seen"])  # no process group, and not one open socket
        assert seen["outcome"] == (rank == 0)


def test_what_other_processes_train_is_not_said_to_be_left_out(left):
    assert "stay as they are" not in (left / "told.txt").read_text()


def test_parts_of_other_machines_are_sent_to_the_first_at_the_end(left, tmp_path):
    training.train(RECIPE, small_settings(), EXECUTION, tmp_path / "alone", progress=False, splits=small_splits())
    ours, theirs = model(left / "machine-0"), model(tmp_path / "alone")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert not (left / "machine-1" / "rank-0").exists()
    results = [json.loads((folder / "result.json").read_text()) for folder in (left / "machine-0", tmp_path / "alone")]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_a_learned_embedding_learns_as_in_one_process_and_alone_is_sent(left):
    alone = small_rule(learned=True)
    optimizer = torch.optim.SGD(alone.parameter_groups(), lr=0.1, momentum=0.9)
    for count in range(7, 12):
        optimizer.zero_grad()
        alone.backward(*small_batch(count))
        optimizer.step()
    left_by = [torch.load(left / f"learned-{rank}.pt") for rank in range(3)]
    whole = small_rule(learned=True)
    start = whole.embedding.table.clone()
    combine(whole, [each["part"] for each in left_by])  # and the embeddings are the same bit by bit, or it refuses
    torch.testing.assert_close(whole.state_dict(), alone.state_dict(), rtol=1e-9, atol=1e-12)
    assert (whole.embedding.table - start).abs().max() > 0.01
    table = whole.embedding.table
    assert all(each["sockets"] > 0 for each in left_by)  # which they are counted by above
    assert [each["sent"] for each in left_by] == [5 * table.numel() * table.element_size()] * 3


@pytest.mark.parametrize(("name", "counts"), [("seven", [7]), ("one", [1]), ("both", [7, 1])])
def test_replicas_average_to_the_gradient_of_the_whole_batch(left, name, counts):
    alone = small_rule(NoiseFree, learned=True)
    for count in counts:
        alone.backward(*small_batch(count))
    expected = {n: p.grad for n, p in alone.named_parameters()}
    found = [torch.load(left / f"replicas-{rank}.pt")[name] for rank in range(4)]
    for rank, gradients in enumerate(found):
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[parameter], msg=f"rank {rank}: {parameter}")
    blocks = [{n.split(".")[1] for n in gradients if n.startswith("network")} for gradients in found]
    assert blocks == [{"0", "1"}, {"0", "1"}, {"2", "3"}, {"2", "3"}]
    assert ["head.weight" in gradients for gradients in found] == [False, False, True, True]


def test_replicas_draw_different_noise_and_stay_in_step(left):
    found = [torch.load(left / f"replicas-{rank}.pt") for rank in range(4)]
    draws = [torch.cat(each["draws"]) for each in found]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[2], draws[3])
    assert len({each["after"].item() for each in found}) == 1


def test_processes_in_step_go_on_from_the_last_checkpoint_that_all_have(left):
    said = (left / "killed-gone-0.txt").read_text()
    assert "another process is gone" in said
    assert "\n" not in said
    ours, theirs = model(left / "killed"), model(left / "in-step")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    result = json.loads((left / "killed" / "result.json").read_text())
    assert result["sent_bytes_per_step"] == [3 * 4 * 4] * 2  # classes, d, bytes of a float32


def test_other_settings_are_told_before_the_training(left):
    for rank in range(2):
        said = (left / f"differ-{rank}.txt").read_text()
        assert f"rank {1 - rank} holds another run" in said
        assert "settings.eta" in said
        assert not (left / "differ" / f"rank-{rank}").exists()


def test_a_whole_training_by_two_groups_of_two_replicas(left):
    result = json.loads((left / "several" / "result.json").read_text())
    assert (result["ranks"], result["data_parallel"]) == (4, 2)
    parts = [model(left / "several" / f"rank-{rank}") for rank in range(4)]
    whole = model(left / "several")
    mean = "network.0.fusion.1.running_mean"
    assert not torch.equal(parts[0][mean], parts[1][mean])
    assert torch.equal(whole[mean], (parts[0][mean] + parts[1][mean]) / 2)
    # The gradients of the last group's one block and head; what is no weight is sent by nobody.
    weights = {name for name in parts[2] if "running" not in name and "num_batches" not in name}
    own = sum(parts[2][n].nbytes for n in weights if n.startswith(("network.2", "head")))
    assert result["sent_bytes_per_step"][2:] == [own, own]


def test_replicas_go_on_from_the_last_checkpoint_that_all_have(left):
    for rank in (0, 2, 3):
        assert "another process is gone" in (left / f"killed-replica-gone-{rank}.txt").read_text()
    ours, theirs = model(left / "killed-replica"), model(left / "several")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("mgd", 11), ("few", 2), ("nodes", 2 * 4 * 8), ("weights", 2 * 4 * 8)],  # of 7, 8 and 9 samples: 8 on average
)
def test_processes_that_share_evaluations_send_their_costs_alone(left, name, numbers):
    """And come to the weights of one process; to the same bits among themselves."""
    alone = EVALUATING[name]()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for count in (7, 8, 9):
        optimizer.zero_grad()
        alone.backward(*small_batch(count))
        optimizer.step()
    found = [torch.load(left / f"seeds-{rank}.pt")[name] for rank in range(3)]
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(found[0]["weights"][key], value, rtol=1e-6, atol=1e-9)
        for other in found[1:]:
            assert torch.equal(found[0]["weights"][key], other["weights"][key]), key
    assert all(each["step"] == 8 * numbers for each in found)  # float64
    assert all(each["sent"] == 3 * 8 * numbers for each in found)


def test_a_recipe_whose_evaluations_are_shared_out(left, tmp_path):
    recipe = find_recipe("mgd/digits")
    outcome = training.train(recipe, SEEDS, EXECUTION, tmp_path / "alone", progress=False, splits=small_splits())
    merged = json.loads((left / "seeds" / "result.json").read_text())
    assert merged["sent_bytes_per_step"] == [4 * 9] * 3
    ours, theirs = model(left / "seeds"), model(tmp_path / "alone")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)
    lines = [json.loads(line) for line in (left / "seeds" / "metrics.jsonl").read_text().splitlines()]
    alone = [json.loads(line) for line in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-5)
    assert outcome.metrics["test_accuracy"] == merged["metrics"]["test_accuracy"]
