"""Plain classifiers of images: the networks on which rules are compared, after arXiv 1909.01311, Section 3."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from beyondprop.layers.dropout import Dropout

Activation = Literal["tanh", "relu", "leaky-relu", "sigmoid"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}


def perceptron(
    image: tuple[int, ...],
    classes: int,
    *,
    hidden: int | Sequence[int] = 1000,
    depth: int = 2,
    activation: Activation = "tanh",
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Make a multilayer perceptron.

        flatten,  depth times (linear to `hidden`, [batch norm], activation, [dropout]),  linear to the classes

    Args:
        image: Channels, height and width; or any shape.
        classes: Scores a sample.
        hidden: Width of each hidden layer; or widths, whose number takes the place of `depth`.
        depth: Hidden layers.
        activation: Of the hidden layers.
        batch_norm: Whether hidden layers have one.
        dropout: Probability with which a hidden layer's output is dropped.
    """
    widths = [math.prod(image), *([hidden] * depth if isinstance(hidden, int) else hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers.append(nn.Linear(before, after, bias=not batch_norm))
        layers += [nn.BatchNorm1d(after)] * batch_norm
        layers.append(ACTIVATIONS[activation]())
        layers += [Dropout(dropout)] * (dropout > 0)
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def convolutional(
    image: tuple[int, int, int], classes: int, *, hidden: int = 1000, activation: Activation = "tanh"
) -> nn.Sequential:
    """Make the paper's convolutional network for MNIST, which takes images of any even size.

        conv 5x5 (32), activation, max-pool 2x2, flatten, linear to `hidden`, activation, linear to the classes

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        hidden: Width of the hidden layer.
        activation: Of both.
    """
    channels, height, width = image
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        ACTIVATIONS[activation](),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), hidden),
        ACTIVATIONS[activation](),
        nn.Linear(hidden, classes),
    )


def deep_perceptron(image: tuple[int, int, int], classes: int, *, hidden: int = 256, depth: int = 5) -> nn.Sequential:
    """Make the perceptron of arXiv 2006.14331: tanh, weights from Xavier's normal distribution, biases 0.

    Args:
        image: Channels, height and width; or any shape.
        classes: Scores a sample.
        hidden: Width of each hidden layer; or widths, whose number takes the place of `depth`.
        depth: Hidden layers.
    """
    return xavier_normal(perceptron(image, classes, hidden=hidden, depth=depth))


def pooled_convolutional(image: tuple[int, int, int], classes: int, *, hidden: int = 512) -> nn.Sequential:
    """Make the convolutional network of arXiv 2006.14331 for CIFAR-10: tanh, drawn as `deep_perceptron`.

        conv 5x5 (32), tanh, max-pool 3x3 by 2,  conv 5x5 (64), tanh, max-pool 3x3 by 2,
        flatten, linear to `hidden`, tanh, linear to the classes

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        hidden: Width of the hidden linear layer.
    """
    channels, height, width = image
    layers: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 5, padding=2), nn.Tanh(), nn.MaxPool2d(3, stride=2, padding=1)]
        height, width = (height + 1) // 2, (width + 1) // 2
    layers += [nn.Flatten(), nn.Linear(64 * height * width, hidden), nn.Tanh(), nn.Linear(hidden, classes)]
    return xavier_normal(nn.Sequential(*layers))


def xavier_normal(network: nn.Sequential) -> nn.Sequential:
    """Draw all weights of linear layers and convolutions from Xavier's normal distribution, and set biases to 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
