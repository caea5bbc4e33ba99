"""One process's part of a rule, in a loop of one's own; several places stand in one process here."""

import pytest
import torch
from small_parts import SmoothBlock, small_batch, small_rule
from torch import nn

from beyondprop.errors import NonFiniteError, RunError, UserError
from beyondprop.parallel import Place, Share, combine
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropDT
from beyondprop.rules.local.noprop.streams import block_stream, draw_step_seed
from beyondprop.rules.signals.backprop import Backprop


def trained(place=None, **options):
    """Four steps, as one of several processes, or alone."""
    rule = small_rule(**options)
    share = Share(rule, place) if place else None
    optimizer = torch.optim.AdamW(rule.parameter_groups(), lr=0.01)
    for count in range(5, 9):
        optimizer.zero_grad()
        (share or rule).backward(*small_batch(count))
        optimizer.step()
    return rule, share, optimizer


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_parts_trained_apart_are_the_whole_trained_together_bit_by_bit(ranks):
    alone, _, _ = trained()
    parts = [trained(Place(rank=rank, ranks=ranks))[1].state_dict() for rank in reversed(range(ranks))]
    whole = small_rule()
    combine(whole, parts)
    assert not torch.equal(alone.head.weight, small_rule().head.weight)
    for name, value in alone.state_dict().items():
        assert torch.equal(whole.state_dict()[name], value), name


def test_only_the_own_blocks_have_gradients_and_optimizer_state():
    rule, share, optimizer = trained(Place(rank=0, ranks=2))
    own = {p for block in rule.network[:2] for p in block.parameters()}
    assert {p for p in rule.parameters() if p.grad is not None} == own
    assert set(optimizer.state) == own
    assert share.sent_bytes == share.step_bytes == 0
    assert not share.in_step
    last, _, optimizer = trained(Place(rank=1, ranks=2))
    expected = {p for part in (last.network[2], last.network[3], last.head) for p in part.parameters()}
    assert set(optimizer.state) == expected


def test_the_losses_of_the_parts_add_up():
    whole = small_rule().backward(*small_batch())
    parts = [Share(small_rule(), Place(rank=rank, ranks=3)).backward(*small_batch()) for rank in range(3)]
    torch.testing.assert_close(sum(parts), whole)


def test_prediction_runs_all_blocks():
    rule = small_rule()
    x, _ = small_batch()
    before = rule(x)
    rule.train_only([2], head=False)
    assert torch.equal(rule(x), before)
    with pytest.raises(UserError, match="no block 5"):
        rule.train_only([1, 5], head=True)


def test_running_statistics_of_replicas_are_averaged_and_weights_must_agree(one_line):
    rule = small_rule()
    rule.network[0].norm = nn.BatchNorm1d(2).double()
    parts = [dict(rule.state_dict()) for _ in range(2)]
    parts[1]["network.0.norm.running_mean"] = torch.tensor([2.0, 4.0], dtype=torch.float64)
    parts[1]["network.0.norm.num_batches_tracked"] = torch.tensor(3)
    combine(rule, parts)
    assert rule.network[0].norm.running_mean.tolist() == [1.0, 2.0]
    assert rule.network[0].norm.num_batches_tracked.item() == 3
    parts[1]["network.0.net.0.bias"] = parts[1]["network.0.net.0.bias"] + 1
    with one_line(RunError, "network.0.net.0.bias", "did not train together"):
        combine(rule, parts)


def test_a_missing_part_and_a_part_of_another_network_are_refused(one_line):
    rule = small_rule()
    parts = [Share(small_rule(), Place(rank=rank, ranks=2)).state_dict() for rank in range(2)]
    with one_line(RunError, "no process has trained network.2"):
        combine(rule, parts[:1])
    rule.network[3] = SmoothBlock(5)
    with one_line(RunError, "do not fit NoPropDT", "network.3.net.0.weight"):
        combine(rule, parts)


def test_a_rule_whose_layers_learn_together_is_refused(one_line):
    with one_line(UserError, "Backprop cannot be shared out", "noprop-dt"):
        Share(Backprop(nn.Linear(2, 2)), Place(rank=0, ranks=2))


@pytest.mark.parametrize(("learned", "replicas"), [(True, 1), (False, 2)])
def test_what_has_to_be_sent_needs_the_other_processes(learned, replicas, one_line):
    with one_line(UserError, "start them with torchrun", "init_process_group"):
        Share(small_rule(learned=learned), Place(rank=0, ranks=2, replicas=replicas))


def test_a_frozen_embedding_is_not_sent():
    rule = small_rule(learned=True)
    rule.embedding.requires_grad_(False)
    assert not Share(rule, Place(rank=0, ranks=2)).in_step


def test_averaged_gradients_keep_the_memory_format_of_their_parameters(monkeypatch):
    """Fused optimizers read a parameter and its gradient by their order in memory: another would scramble them."""

    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel, self.last = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3 + 3, 3)

        def forward(self, z, x):
            return self.last(torch.cat([z, self.kernel(x).mean(dim=(2, 3))], dim=1))

    monkeypatch.setattr("beyondprop.parallel.share.dist.all_reduce", lambda bucket, group: bucket.mul_(2))
    monkeypatch.setattr("beyondprop.parallel.share._group_of", lambda place: None)
    torch.manual_seed(0)
    rules = [NoPropDT([Convolution(), Convolution()], ClassEmbedding.one_hot(3)) for _ in range(2)]
    rules[1].load_state_dict(rules[0].state_dict())
    x, y = torch.randn(4, 2, 5, 5), torch.tensor([0, 1, 2, 0])
    for rule in rules:
        nn.utils.convert_conv2d_weight_memory_format(rule, torch.channels_last)
        optimizer = torch.optim.AdamW(rule.parameters(), lr=0.1, fused=True)
        share = Share(rule, Place(rank=0, ranks=2, replicas=2)) if rule is rules[0] else None
        torch.manual_seed(1)
        if share is not None:  # the other replica has the same half of the batch
            share.backward(torch.cat([x, x]), torch.cat([y, y]))
        else:
            with block_stream(draw_step_seed(), 0, x.device):
                rule.backward(x, y)
        assert all(p.grad.stride() == p.stride() for p in rule.network.parameters())
        optimizer.step()
    for ours, theirs in zip(*(rule.network.parameters() for rule in rules), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_accumulated_gradients_are_kept_when_a_batch_fails(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr("beyondprop.parallel.share._group_of", lambda place: None)
    rule = small_rule(learned=True)
    share = Share(rule, Place(rank=0, ranks=2))
    x, y = small_batch()
    (table,) = share._common
    table.grad = torch.ones_like(table)
    with pytest.raises(NonFiniteError):
        share.backward(x * torch.nan, y)
    assert torch.equal(table.grad, torch.ones_like(table))
