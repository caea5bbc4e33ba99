"""The blocks that local losses train: no graph between them, classifiers cut into them, what is refused."""

from copy import deepcopy

import pytest
import torch
from mixer_losses import CHANNELS, CLASSES, LOSSES, make
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.measure.memory import peak_saved_bytes
from beyondprop.rules.perturbation.local_forward_gradient import CutClassifier, LocalForwardGradient
from beyondprop.rules.signals.backprop import Backprop


@pytest.mark.parametrize("gradient", ["forward-activities", "forward-weights"])
@pytest.mark.parametrize("losses", LOSSES)
def test_no_reverse_graph_stands(gradient, losses):
    network, x, y = make(blocks=3)
    rule = LocalForwardGradient(network, gradient=gradient, losses=losses)
    assert peak_saved_bytes(lambda: rule.backward(x, y), network) == 0
    assert peak_saved_bytes(lambda: Backprop(network).backward(x, y), network) > 0


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
