"""The networks of the recipes: shapes, widths, and what stands in them."""

import pytest
import torch
from torch import nn

from beyondprop.networks.cascaded_forward import cascade
from beyondprop.networks.classifiers import perceptron
from beyondprop.networks.local_fields import local_fields
from beyondprop.networks.recurrent import RowReader
from beyondprop.networks.vgg import vgg8b
from beyondprop.rules.local.blockwise import block_starts


@pytest.mark.parametrize(
    "make",
    [
        lambda: perceptron((3, 32, 32), 10, hidden=20, batch_norm=True, dropout=0.1, activation="leaky-relu"),
        lambda: cascade((3, 32, 32), 10),
        lambda: cascade((3, 32, 32), 10, widths=(20, 80, 240, 480)),
        lambda: vgg8b((3, 32, 32), 10, scale=0.1),
        lambda: local_fields((3, 32, 32), 10, field=3),
        lambda: RowReader((3, 32, 32), 10, hidden=8),
    ],
)
def test_images_become_class_scores(make):
    assert make()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_sizes_are_the_papers():
    """Features of Cascaded Forward: 8192 at each block of CIFAR's images; 6272, 6272 and 4608 of MNIST's."""
    for image, sizes in (((3, 32, 32), [8192] * 3), ((1, 28, 28), [6272, 6272, 4608])):
        x, found = torch.randn(2, *image), []
        for layer in cascade(image, 10)[:-2]:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                found.append(x[0].numel())
                assert layer.eps == 1e-4
        assert found == sizes
    count = sum(p.numel() for p in vgg8b((3, 32, 32), 10).parameters())
    assert count == pytest.approx(8.9e6, rel=0.02)
    slopes = {m.negative_slope for m in vgg8b((3, 32, 32), 10).modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.01}


def test_batch_norm_takes_the_bias_away_and_stands_before_the_activation():
    network = perceptron((1, 4, 4), 3, hidden=5, depth=2, activation="relu", batch_norm=True, dropout=0.2)
    kinds = [type(layer).__name__ for layer in network]
    hidden = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds == ["Flatten", *hidden, *hidden, "Linear"]
    assert network[1].bias is None
    assert network[-1].bias is not None
    assert len(block_starts(network)) == 3


def test_rows_are_read_in_order_and_remembered():
    """Written out; the state before the first row is zero."""
    torch.manual_seed(0)
    network, x = RowReader((2, 3, 4), 5, hidden=6), torch.randn(2, 2, 3, 4)
    state, states = torch.zeros(2, 6), []
    for t in range(3):
        state = torch.tanh(network.read(x[:, :, t].flatten(1)) + state @ network.remember.weight.T)
        states.append(state)
    torch.testing.assert_close(network(x), network.output(torch.cat(states, dim=1)))
