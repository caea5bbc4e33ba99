"""Forward gradients of local losses: exact over a basis, beside replicated losses written out."""

import pytest
import torch
from mixer_losses import CHANNELS, GROUPS, LOSSES, PATCHES, exact, gradients, is_trunk, learn, local_losses, make
from torch.nn import functional as F

from beyondprop.rules.perturbation.local_forward_gradient import LocalForwardGradient
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment


def test_all_replicas_have_the_blocks_own_loss():
    network, x, y = make()
    losses, readout = local_losses(network, x, y)
    h = network.blocks[0](network.tokens(x))
    expected = F.cross_entropy(network.heads[0](h.mean(dim=1)), y, reduction="none") / len(y)
    torch.testing.assert_close(losses[0], expected[:, None, None].expand_as(losses[0]))
    loss, _ = learn(network, x, y)
    torch.testing.assert_close(loss, readout.detach())


@pytest.mark.parametrize("losses", [name for name in LOSSES if name.startswith("block")])
def test_the_sum_of_exact_local_gradients_is_greedy_back_propagation(losses):
    network, x, y = make()
    expected = exact(network, x, y)
    torch.testing.assert_close(learn(network, x, y, gradient="backprop", losses=losses)[1], expected)


def test_global_back_propagation_is_back_propagation_and_heads_only_read():
    network, x, y = make()
    greedy = exact(network, x, y)
    network.zero_grad()
    Backprop(network).backward(x, y)
    expected = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    found = learn(network, x, y, gradient="backprop", losses="global")[1]
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, greedy[name] if name.startswith("heads") else expected[name])


def test_added_losses_are_differentiated_through_all_blocks():
    network, x, y = make()
    h, total = network.tokens(x), 0.0
    for block, head in zip(network.blocks, network.heads, strict=True):
        h = block(h)
        total = total + F.cross_entropy(head(h.mean(dim=1)), y)
    (total + F.cross_entropy(network.readout(h.mean(dim=1)), y)).backward()
    expected = gradients(network)
    torch.testing.assert_close(learn(network, x, y, gradient="backprop", losses="added")[1], expected)


def over_a_basis(batch, losses, gradient, per_unit):
    """Add the estimates along unit vectors: one number moves at a time, or one of every place and group at once."""
    network, x, y = batch
    network.zero_grad()
    rule = LocalForwardGradient(network, gradient=gradient, losses=losses)
    shapes = []
    rule.noise = lambda value, generator=None: shapes.append(value.shape) or torch.zeros_like(value)
    rule.backward(x, y)
    heads = {name: g for name, g in gradients(network).items() if not is_trunk(name)}
    network.zero_grad()
    for site, shape in enumerate(list(shapes)):
        for unit in per_unit(shape):
            drawn = []

            def one(value, generator=None, site=site, unit=unit, drawn=drawn):
                drawn.append(value)
                return unit.clone().to(value) if len(drawn) == site + 1 else torch.zeros_like(value)

            rule.noise = one
            rule.backward(x, y)
    return {name: heads.get(name, g) for name, g in gradients(network).items()}


def basis(shape):
    return torch.eye(shape.numel()).view(-1, *shape)


@pytest.mark.parametrize("losses", LOSSES)
def test_activities_along_a_whole_basis_give_the_exact_gradient(losses):
    network, x, y = make()
    expected = learn(network, x, y, gradient="backprop", losses=losses)[1]

    def samples_at_once(shape):  # each sample has a signal of its own: all move together
        return torch.eye(shape[1:].numel()).view(-1, 1, *shape[1:]).expand(-1, *shape)

    found = over_a_basis((network, x, y), losses, "forward-activities", samples_at_once)
    torch.testing.assert_close(found, expected)


def test_one_direction_serves_all_patches_and_groups_at_once():
    """Unit vectors of one group's width, the same in every patch and group of channels: signals do not mix."""
    network, x, y = make()
    expected = exact(network, x, y)

    def everywhere(shape):
        width = shape[2] // GROUPS
        return torch.eye(width)[:, None, None, None].expand(-1, *shape[:2], GROUPS, -1).flatten(3)

    found = over_a_basis((network, x, y), "block+patch+group", "forward-activities", everywhere)
    for name, gradient in found.items():
        if not name.startswith("blocks.1.layers.0"):
            torch.testing.assert_close(gradient, expected[name])
    # A token's own noise reaches all groups of its patch: there unit vectors must not stand in two groups at once.
    one_group = over_a_basis(
        (network, x, y), "block+patch+group", "forward-activities",
        lambda shape: torch.eye(shape[2])[:, None, None].expand(-1, *shape[:2], -1),
    )  # fmt: skip
    torch.testing.assert_close(one_group, expected)


@pytest.mark.parametrize("losses", ["global", "added", "block", "block+patch"])
def test_weights_along_a_whole_basis_give_the_exact_gradient(losses):
    network, x, y = make()
    expected = learn(network, x, y, gradient="backprop", losses=losses)[1]
    torch.testing.assert_close(over_a_basis((network, x, y), losses, "forward-weights", basis), expected)


def test_weights_that_lead_to_a_group_learn_from_its_losses():
    """What reaches another group through the norm over all channels is left out, as in the authors' code."""
    network, x, y = make()
    network.zero_grad()
    losses, _ = local_losses(network, x, y)
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters() if is_trunk(name)}
    for group in range(GROUPS):
        network.zero_grad()
        sum(loss[:, :, group].sum() for loss in losses).backward(retain_graph=True)
        for name, wanted in expected.items():
            own = network.get_parameter(name).grad
            if name.startswith("blocks.1.layers.0"):  # by tokens: all groups
                wanted.add_(own)
            else:
                wanted.view(GROUPS, -1)[group] = own.view(GROUPS, -1)[group]
    found = over_a_basis((network, x, y), "block+patch+group", "forward-weights", basis)
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted)


@pytest.mark.parametrize("block", [1, 2])
def test_a_loss_meets_only_the_noise_of_its_block_patch_and_group(block):
    """Whatever noise there is anywhere else, the change of one patch's and group's loss is the same."""
    network, x, y = make()
    rule = LocalForwardGradient(network)
    sites = [(1, "group"), (1, "group"), (2, "patch"), (2, "group"), (2, "group")]
    kept = [torch.randn(2, PATCHES, CHANNELS).double() for _ in sites]
    read, found = rule._read, []

    def noting(head, h, dh, y, where):
        loss, change = read(head, h, dh, y, where)
        if where == f"block {block}":
            found.append(change)
        return loss, change

    rule._read = noting
    for other in (1.0, -3.0):
        drawn = []

        def noise(value, generator=None, other=other, drawn=drawn):
            at, reach = sites[len(drawn)]
            own = torch.zeros(PATCHES, CHANNELS, dtype=torch.bool)
            own[1, : CHANNELS if reach == "patch" else CHANNELS // GROUPS] = at == block
            drawn.append(value)
            return torch.where(own, 1.0, other) * kept[len(drawn) - 1]

        rule.noise = noise
        rule.backward(x, y)
    torch.testing.assert_close(found[0][:, 1, 0], found[1][:, 1, 0])
    assert not torch.allclose(found[0], found[1])


def test_feedback_alignment_with_the_own_weights_is_back_propagation():
    network, x, y = make()
    expected = learn(network, x, y, gradient="backprop", losses="global")[1]
    rule = FeedbackAlignment(network, x)
    for name in rule.feedback:
        rule.feedback[name].copy_(network.get_submodule(name).weight)
    network.zero_grad()
    rule.backward(x, y)
    for name, parameter in network.named_parameters():
        if not name.startswith("heads"):
            torch.testing.assert_close(parameter.grad, expected[name])
