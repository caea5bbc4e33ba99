"""The convolutional network of Cascaded Forward (arXiv 2303.09728, Section 4)."""

from __future__ import annotations

from torch import nn


def cascade(image: tuple[int, int, int], classes: int, *, widths: tuple[int, ...] = (32, 128, 512)) -> nn.Sequential:
    """Make the paper's blocks, and an output layer on the last of them.

        each block: conv 3x3, ReLU, max-pool 2x2, batch norm;  then flatten, linear to the classes

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        widths: Channels of the blocks.
    """
    (channels, height, width), layers = image, list[nn.Module]()
    for wide in widths:
        layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(wide, eps=1e-4)]
        channels, height, width = wide, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))
