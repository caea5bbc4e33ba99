"""The networks that multiplexed gradient descent was shown on, narrow enough to be perturbed."""

from __future__ import annotations

import itertools

from torch import nn


def small_convolutional(
    image: tuple[int, int, int], classes: int, *, widths: tuple[int, ...] = (16, 32, 64)
) -> nn.Sequential:
    """Make the network of arXiv 2303.03986: 26,154 parameters on CIFAR-10; 14,378 with widths 16, 32, 32 on MNIST.

        for each width: conv 3x3 without padding, ReLU, max-pool 2x2;  flatten,  linear to the classes

    Args:
        image: Channels, height and width; at least 22 pixels each way for three layers.
        classes: Scores a sample.
        widths: Channels of the convolutions.
    """
    channels, height, width = image
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((channels, *widths)):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
        height, width = (height - 2) // 2, (width - 2) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * height * width, classes))


def tanh_vgg(image: tuple[int, int, int], classes: int, *, width: int = 8) -> nn.Sequential:
    """Make the network of arXiv 2501.15403: 28,674 parameters for width 8 and images of 28x28.

        for d, 2d, 4d: twice (conv 3x3, tanh), max-pool 2x2;  flatten,  twice (linear to 4d, tanh),  linear to classes

    Args:
        image: Channels, height and width; at least 8 pixels each way.
        classes: Scores a sample.
        width: d, channels of the first two convolutions.
    """
    before, height, wide = image
    layers: list[nn.Module] = []
    for after in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.Tanh()]
        layers += [nn.Conv2d(after, after, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)]
        before, height, wide = after, height // 2, wide // 2
    layers.append(nn.Flatten())
    for inputs in (before * height * wide, before):
        layers += [nn.Linear(inputs, before), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(before, classes))
