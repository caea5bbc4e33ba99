"""Layers of the image's own size with local receptive fields, after arXiv 2212.13345, Section 4."""

from __future__ import annotations

import math

from torch import nn

from beyondprop.layers.locally_connected import LocallyConnected2d


def local_fields(image: tuple[int, int, int], classes: int, *, depth: int = 2, field: int = 11) -> nn.Sequential:
    """Make hidden layers that look at a square around each place, with weights of its own.

        depth times (locally connected to as many channels as the image has, ReLU),  flatten, linear to the classes

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        depth: Hidden layers.
        field: Side of the square, odd.
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [LocallyConnected2d(image, image[0], field), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod(image), classes))
