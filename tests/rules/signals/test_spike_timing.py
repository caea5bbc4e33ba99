"""The rule: what it builds from a classifier, what it refuses, and that it is back-propagation."""

import pytest
import torch
from torch import nn

from beyondprop import SpikeTiming
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.layers.spiking.linear import SpikingLinear
from beyondprop.layers.spiking.readouts import FirstSpike, FirstSpikeLoss, SpikeCount, SpikeCountLoss


def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))


@pytest.mark.parametrize(
    ("code", "readout", "loss"), [("first-spike", FirstSpike, FirstSpikeLoss), ("count", SpikeCount, SpikeCountLoss)]
)
def test_widths_readout_and_loss(code, readout, loss):
    rule = SpikeTiming.for_classifier(classifier(), torch.rand(2, 6), 3, code=code, spikes=7, tau_m=5.0)
    layers = [module for module in rule.network if isinstance(module, SpikingLinear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(9, 7), (3, 9)]  # one more input always spikes
    assert layers[0].options.spikes == 7
    assert layers[1].membrane.tau_m == 5.0
    assert isinstance(rule.network[-1], readout)
    assert isinstance(rule.loss, loss)


def test_the_latest_input_spikes_at_the_end_of_the_window():
    rule = SpikeTiming.for_classifier(classifier(), torch.rand(2, 6), 3, window=4.0)
    almost_dark = torch.full((1, 6), 1e-6)
    times = rule.network[0](almost_dark)
    assert times[times.isfinite()].max().item() == pytest.approx(4.0, rel=1e-4)


def test_is_back_propagation_of_its_loss():
    torch.manual_seed(0)
    rule = SpikeTiming.for_classifier(classifier(), torch.rand(2, 6), 3, drive=6.0)
    x, y = torch.rand(20, 6), torch.randint(3, (20,))
    loss = rule.backward(x, y)
    found = [p.grad.clone() for p in rule.parameters()]
    expected = FirstSpikeLoss()(rule.network(x), y)
    assert loss == expected
    for mine, theirs in zip(found, torch.autograd.grad(expected, list(rule.parameters())), strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs)


def test_refusals(one_line):
    with one_line(UnsupportedNetworkError, "SpikingLinear"):
        SpikeTiming(classifier())
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    with one_line(UnsupportedNetworkError, "layer 0 (Conv2d)"):
        SpikeTiming.for_classifier(convolutional, torch.rand(2, 1, 4, 4), 3)
    with one_line(UnsupportedNetworkError, "nn.Linear"):
        SpikeTiming.for_classifier(nn.Sequential(nn.ReLU()), torch.rand(2, 3), 3)
    with one_line(UserError, "3 outputs for 4 classes"):
        SpikeTiming.for_classifier(classifier(), torch.rand(2, 6), 4)
    rule = SpikeTiming.for_classifier(classifier(), torch.rand(2, 6), 3)
    with one_line(UserError, "0..2"):
        rule.backward(torch.rand(2, 6), torch.tensor([0, 3]))
