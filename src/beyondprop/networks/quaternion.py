"""Real networks and their quaternion twins of the same widths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from beyondprop.layers.quaternion.conversion import to_quaternion

Algebra = Literal["real", "quaternion"]
Norm = Literal["modulus", "split"]


def in_algebra(network: nn.Module, algebra: Algebra, norm: Norm = "modulus") -> nn.Module:
    """Leave a network real, or convert all of its layers whose widths divide by four; batch norms as they are asked."""
    if algebra == "real":
        return network
    split = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return to_quaternion(network, skip=split if norm == "split" else ()).network


def perceptron(image: Sequence[int], classes: int, *, width: int, depth: int, algebra: Algebra) -> nn.Module:
    """Make a perceptron of ReLU.

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        width: Of each hidden layer, in real numbers.
        depth: Hidden layers.
        algebra: Of the layers.
    """
    widths = [math.prod(image), *[width] * depth]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return in_algebra(nn.Sequential(*layers, nn.Linear(widths[-1], classes)), algebra)


def convolutional(
    image: Sequence[int], classes: int, *, width: int, algebra: Algebra, norm: Norm = "modulus"
) -> nn.Module:
    """Make a convolutional network: a first layer that halves the image, and three pairs of convolutions.

        conv 3x3 by 2 (w),  then for w, 2w, 4w, the later ones after a max-pool 2x2:  conv 3x3, conv 3x3,
        mean over places, linear to the classes;  each convolution with batch norm and ReLU

    The first layer, from three colours, and the last, to ten classes, have widths that do not divide by four: they are
    real ones in both.

    Args:
        image: Channels, height and width; the sides are multiples of 8.
        classes: Scores a sample.
        width: w, a multiple of four.
        algebra: Of the layers.
        norm: Of quaternion networks: by modulus, or torch's own, of each component by itself.
    """
    layers: list[nn.Module] = []

    def block(before: int, after: int, stride: int = 1) -> None:
        layers.append(nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False))
        layers.extend((nn.BatchNorm2d(after), nn.ReLU()))

    block(image[0], width, 2)
    block(width, width)
    block(width, width)
    for before, after in ((width, 2 * width), (2 * width, 4 * width)):
        layers.append(nn.MaxPool2d(2))
        block(before, after)
        block(after, after)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)]
    return in_algebra(nn.Sequential(*layers), algebra, norm)


class Forecaster(nn.Module):
    """A long short-term memory with a linear readout of every step, shape (batch, time, numbers).

    Args:
        inputs: Numbers of a step.
        hidden: Length of the state.
        outputs: Numbers of an answer.

    >>> import torch
    >>> Forecaster(4, 8, 3)(torch.zeros(2, 5, 4)).shape
    torch.Size([2, 5, 3])
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.memory = nn.LSTM(inputs, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers of all steps."""
        return self.readout(self.memory(x)[0])
