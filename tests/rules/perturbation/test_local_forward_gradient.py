"""Forward gradients of local losses: exact over a basis, beside replicated losses written out; no reverse graph."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.measure.memory import peak_saved_bytes
from beyondprop.networks.local_mixer import LocalMixer
from beyondprop.rules.perturbation.local_forward_gradient import CutClassifier, LocalForwardGradient
from beyondprop.rules.perturbation.noise import draw_noise
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment

SIDE, CHANNELS, GROUPS, CLASSES = 2, 6, 2, 3
PATCHES = SIDE**2
LOSSES = ("global", "added", "block", "block+patch", "block+group", "block+patch+group")


def make(count=2, blocks=2, network=LocalMixer):
    torch.manual_seed(0)
    sizes = {"blocks": blocks, "side": SIDE, "channels": CHANNELS, "groups": GROUPS}
    made = network((1, 4, 4), CLASSES, **sizes).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made, torch.randn(count, 1, 4, 4).double(), torch.arange(count) % CLASSES


def replicated(features, head, y):
    """The losses (b, p, g) as they are defined: a replica of the features for each patch and group."""
    found = torch.zeros(len(y), PATCHES, GROUPS, dtype=features.dtype)
    width = features.shape[2] // GROUPS
    for p in range(PATCHES):
        for g in range(GROUPS):
            own = torch.zeros_like(features)
            own[:, p, g * width : (g + 1) * width] = 1.0
            replica = own * features + (1 - own) * features.detach()
            losses = F.cross_entropy(head(replica.mean(dim=1)), y, reduction="none")
            found[:, p, g] = losses / len(y)
    return found


def local_losses(network, x, y):
    """All of them, block by block, and the readout's; nothing passes between blocks."""
    h, found = network.tokens(x), []
    for block, head in zip(network.blocks, network.heads, strict=True):
        h = block(h)
        found.append(replicated(h, head, y))
        h = h.detach()
    return found, F.cross_entropy(network.readout(h.mean(dim=1)), y)


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def is_trunk(name):
    return name.startswith("blocks.")


def exact(network, x, y):
    """The gradient of the sum of all local losses; heads have theirs once, not once for each replica."""
    network.zero_grad()
    losses, readout = local_losses(network, x, y)
    (sum(loss.sum() for loss in losses) + readout).backward()
    found = gradients(network)
    return {name: g / (PATCHES * GROUPS) if name.startswith("heads") else g for name, g in found.items()}


def learn(network, x, y, **options):
    network.zero_grad()
    loss = LocalForwardGradient(network, **options).backward(x, y)
    return loss, gradients(network)


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


@pytest.mark.parametrize("gradient", ["forward-activities", "forward-weights"])
def test_estimates_are_unbiased(gradient):
    """The mean of many lies within five standard errors of the gradient, in its direction and in all others at once."""
    network, x, y = make(count=4)
    losses = "block+patch+group" if gradient == "forward-activities" else "block+patch"
    true = exact(network, x, y)
    torch.manual_seed(1)
    trunk = [name for name in true if is_trunk(name)]
    draws = [learn(network, x, y, gradient=gradient, losses=losses)[1] for _ in range(150)]
    found = torch.stack([torch.cat([draw[name].flatten() for name in trunk]) for draw in draws])
    expected = torch.cat([true[name].flatten() for name in trunk])
    along = found @ expected / expected.square().sum()
    assert (along.mean() - 1).abs() < 5 * along.std() / len(along) ** 0.5
    error = (found.mean(dim=0) - expected).square().sum()
    assert 0.2 < error / (found.var(dim=0).sum() / len(found)) < 3


def variances(sizes, gradient, draws, copies):
    """Variance of one estimate by noise on the last layer alone, over the gradient's square; and units that are on."""
    found, units = [], []
    for groups, channels, losses in sizes:
        torch.manual_seed(0)
        network = LocalMixer((1, 4, 4), CLASSES, blocks=1, side=1, channels=channels, groups=groups, scale=0.5).double()
        x, y = torch.randn(1, 1, 4, 4).double(), torch.tensor([1])
        layer = network.blocks[0].layers[-1].linear
        learn(network, x, y, gradient="backprop", losses=losses)
        true = layer.bias.grad.square().sum()
        rule, estimates = LocalForwardGradient(network, gradient=gradient, losses=losses), []
        sites = 4 if gradient == "forward-weights" else 2
        for _ in range(draws):
            drawn = []

            def last(value, generator=None, drawn=drawn, sites=sites):
                drawn.append(value)
                return draw_noise(value) if len(drawn) > sites / 2 else torch.zeros_like(value)

            rule.noise = last
            network.zero_grad()
            rule.backward(x.expand(copies, -1, -1, -1), y.expand(copies))
            estimates.append(layer.bias.grad.clone())
        found.append((copies * torch.stack(estimates).var(dim=0).sum() / true).log())
        units.append(int((network.blocks[0](network.tokens(x)) > 0).sum()))
    return torch.stack(found), units


def slope(x, y):
    x = torch.tensor(x, dtype=torch.float64).log()
    return ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()


def test_variance_grows_with_a_groups_channels_and_not_with_the_number_of_groups():
    """(q + 1) S of q units (Table 1): q is a group's."""
    widths = [8, 16, 32, 64]
    whole, units = variances([(1, width, "block") for width in widths], "forward-activities", 60, 100)
    grouped, _ = variances([(width // 8, width, "block+group") for width in widths], "forward-activities", 60, 100)
    assert 0.8 < slope([q + 1 for q in units], whole) < 1.2
    assert -0.3 < slope(widths, grouped) < 0.3


def test_variance_of_weights_grows_with_their_number():
    """(pq + 1) S of p inputs and q units, here p = q."""
    widths = [4, 8, 16]
    found, _ = variances([(1, width, "block") for width in widths], "forward-weights", 400, 1)
    assert 1.6 < slope(widths, found) < 2.4


@pytest.mark.parametrize("gradient", ["forward-activities", "forward-weights"])
@pytest.mark.parametrize("losses", LOSSES)
def test_no_reverse_graph_stands(gradient, losses):
    network, x, y = make(blocks=3)
    rule = LocalForwardGradient(network, gradient=gradient, losses=losses)
    assert peak_saved_bytes(lambda: rule.backward(x, y), network) == 0
    assert peak_saved_bytes(lambda: Backprop(network).backward(x, y), network) > 0


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


class Blocks(LocalMixer):
    """The same network, whose blocks leave tangents to forward-mode differentiation."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for block in self.blocks:
            block.perturbed = None


@pytest.mark.parametrize("losses", ["global", "block+patch+group"])
@pytest.mark.parametrize("gradient", ["forward-activities", "forward-weights"])
def test_blocks_without_tangents_of_their_own_are_differentiated(gradient, losses):
    """Unbiased too, with noise on the outputs of their linear layers; no group is told from another."""
    network, x, y = make(network=Blocks)
    true = learn(network, x, y, gradient="backprop", losses=losses)[1]
    torch.manual_seed(1)
    trunk = [name for name in true if is_trunk(name)]
    draws = [learn(network, x, y, gradient=gradient, losses=losses)[1] for _ in range(100)]
    found = torch.stack([torch.cat([draw[name].flatten() for name in trunk]) for draw in draws])
    expected = torch.cat([true[name].flatten() for name in trunk])
    along = found @ expected / expected.square().sum()
    assert (along.mean() - 1).abs() < 5 * along.std() / len(along) ** 0.5
    for name in set(true) - set(trunk):
        torch.testing.assert_close(draws[0][name], true[name])


def test_statistics_of_a_block_move_once_along_weights_too():
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES))
    x, y = torch.randn(6, 4), torch.arange(6) % CLASSES
    moved = {}
    for gradient in ("forward-weights", "backprop"):
        rule = LocalForwardGradient.for_classifier(deepcopy(network), x, CLASSES, gradient=gradient)
        rule.backward(x, y)
        moved[gradient] = [buffer for name, buffer in rule.named_buffers() if "running" in name]
        assert len(moved[gradient]) == 2
    for forward, plain in zip(*moved.values(), strict=True):
        torch.testing.assert_close(forward, plain)


def test_a_classifier_is_cut_into_blocks_with_heads():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, CLASSES)
    )
    x, y = torch.randn(6, 1, 4, 4), torch.arange(6) % CLASSES
    rule = LocalForwardGradient.for_classifier(network, x, CLASSES)
    assert isinstance(rule.network, CutClassifier)
    assert [head.in_features for head in rule.network.heads] == [8, 5]
    torch.testing.assert_close(rule(x), network(x))
    rule.backward(x, y)
    assert all(p.grad is not None for p in rule.parameters())
    assert [group["name"] for group in rule.parameter_groups()] == ["blocks", "readout"]
    assert rule.parameter_groups()[1]["params"] == list(network[-1].parameters())


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


def test_what_cannot_be_trained_is_refused_by_name():
    network, x, y = make()
    with pytest.raises(UserError, match="gradient must be one of"):
        LocalForwardGradient(network, gradient="reverse")
    with pytest.raises(UserError, match="losses must be one of"):
        LocalForwardGradient(network, losses="patch")
    with pytest.raises(UnsupportedNetworkError, match="Linear has no blocks"):
        LocalForwardGradient(nn.Linear(3, 3))
    with pytest.raises(UnsupportedNetworkError, match="hidden layer"):
        LocalForwardGradient.for_classifier(nn.Sequential(nn.Linear(3, 3)), x, CLASSES)
    with pytest.raises(UserError, match=r"0\.\.2"):
        LocalForwardGradient(network).backward(x, y + 3)
    network.heads.append(nn.Linear(CHANNELS, CLASSES))
    with pytest.raises(UnsupportedNetworkError, match="3 heads for 2 blocks"):
        LocalForwardGradient(network)


@pytest.mark.parametrize("gradient", ["forward-activities", "forward-weights", "backprop"])
def test_nan_names_the_block_and_nothing_is_added(gradient):
    network, x, y = make()
    nn.init.constant_(network.blocks[1].layers[1].linear.bias, torch.nan)
    with pytest.raises(NonFiniteError, match="block 2"):
        LocalForwardGradient(network, gradient=gradient).backward(x, y)
    assert all(p.grad is None for name, p in network.named_parameters() if name.startswith(("blocks.1", "heads.1")))


def test_convolutions_before_a_flattened_readout_are_a_block():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.randn(5, 1, 4, 4), torch.arange(5) % 3
    rule = LocalForwardGradient.for_classifier(network, x, 3)
    torch.testing.assert_close(rule(x), network(x))
    rule.backward(x, y)
    expected = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), network[3].weight)[0]
    torch.testing.assert_close(network[3].weight.grad, expected)  # the readout learns by its own derivative
    assert network[0].weight.grad.norm() > 0
