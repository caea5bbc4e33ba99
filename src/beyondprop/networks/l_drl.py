"""The convolutional networks of layer-local difference reconstruction (arXiv 2201.13415): ELU and max-pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import nn


def simple_vgg(
    image: tuple[int, int, int], classes: int, *, widths: Sequence[int] = (128, 128, 256, 256, 512)
) -> nn.Sequential:
    """Make blocks of a convolution 3x3, an ELU and a max-pool 2x2, and a linear layer to the classes.

    Args:
        image: Channels, height and width; the last two are halved by each block.
        classes: Scores a sample.
        widths: Channels of each block.
    """
    channels, height, width = image
    layers: list[nn.Module] = []
    for wide in widths:
        layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ELU(), nn.MaxPool2d(2)]
        channels, height, width = wide, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))


def lenet(image: tuple[int, int, int], classes: int, *, hidden: int = 512) -> nn.Sequential:
    """Make two convolutions 5x5 (32 and 64), each with ELU and max-pool 3x3 by 2, and two linear layers.

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        hidden: Width of the hidden linear layer.
    """
    channels, height, width = image
    layers: list[nn.Module] = []
    for wide in (32, 64):
        layers += [nn.Conv2d(channels, wide, 5, padding=2), nn.ELU(), nn.MaxPool2d(3, stride=2, padding=1)]
        channels, height, width = wide, (height + 1) // 2, (width + 1) // 2
    flat = [nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ELU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers, *flat)


NETWORKS: Mapping[str, Callable[[tuple[int, int, int], int], nn.Sequential]] = {
    "elu-vgg": simple_vgg,
    "elu-vgg-small": partial(simple_vgg, widths=(16, 32)),
    "elu-lenet": lenet,
}
