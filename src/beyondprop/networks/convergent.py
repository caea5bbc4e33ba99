"""The layers of the convergent networks that equilibrium propagation was shown on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import nn

from beyondprop.layers.hard_sigmoid import HardSigmoid, SteepSigmoid

StateName = Literal["hard-sigmoid", "half-hard-sigmoid", "steep-sigmoid", "tanh"]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "hard-sigmoid": HardSigmoid,
    "half-hard-sigmoid": partial(HardSigmoid, width=2.0),
    "steep-sigmoid": SteepSigmoid,
    "tanh": nn.Tanh,
}


def convergent_perceptron(
    image: Sequence[int], classes: int, *, hidden: Sequence[int] = (512,), activation: str = "steep-sigmoid"
) -> nn.Sequential:
    """Make the layers of a perceptron.

        flatten,  for each width: linear, activation;  linear to the classes

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        hidden: Widths of the hidden layers.
        activation: One of `ACTIVATIONS`.
    """
    pixels = image[0] * image[1] * image[2]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise((pixels, *hidden)):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear((pixels, *hidden)[-1], classes))


def convergent_convolutional(
    image: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (128, 256, 512, 512),
    kernel: int = 3,
    paddings: Sequence[int] = (1, 1, 1, 0),
    pool: Literal["max", "average"] = "max",
    activation: str = "half-hard-sigmoid",
) -> nn.Sequential:
    """Make the layers of arXiv 2006.03824 for CIFAR-10: 3,843,850 parameters for images of 3x32x32.

        for each width: conv, pool 2x2, activation;  flatten,  linear to the classes

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        channels: Of the convolutions.
        kernel: Their size.
        paddings: One for each.
        pool: Of which kind.
        activation: One of `ACTIVATIONS`.
    """
    before, height, width = image
    layers: list[nn.Module] = []
    for after, padding in zip(channels, paddings, strict=True):
        layers.append(nn.Conv2d(before, after, kernel, padding=padding))
        layers += [nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2), ACTIVATIONS[activation]()]
        before = after
        height, width = ((size + 2 * padding - kernel + 1) // 2 for size in (height, width))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * height * width, classes))
