"""The papers' own counts of parameters."""

import pytest
import torch

from beyondprop.networks.multiplexed import small_convolutional, tanh_vgg


@pytest.mark.parametrize(
    ("make", "image", "options", "count"),
    [
        (small_convolutional, (3, 32, 32), {}, 26_154),
        (small_convolutional, (1, 28, 28), {"widths": (16, 32, 32)}, 14_378),
        (tanh_vgg, (1, 28, 28), {"width": 1}, 520),
        (tanh_vgg, (1, 28, 28), {"width": 8}, 28_674),
        (tanh_vgg, (1, 28, 28), {"width": 64}, 1_802_698),
    ],
)
def test_parameters_are_as_many_as_the_papers(make, image, options, count):
    network = make(image, 10, **options)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network(torch.zeros(2, *image)).shape == (2, 10)
