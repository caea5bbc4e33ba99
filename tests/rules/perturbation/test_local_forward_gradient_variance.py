"""Forward gradients of local losses are unbiased, and their variance is that of a group."""

import pytest
import torch
from mixer_losses import CLASSES, exact, is_trunk, learn, make

from beyondprop.networks.local_mixer import LocalMixer
from beyondprop.rules.perturbation.local_forward_gradient import LocalForwardGradient
from beyondprop.rules.perturbation.noise import draw_noise


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
