"""VGG8b, the network of local error signals (arXiv 1901.06656, Section 4)."""

from __future__ import annotations

from torch import nn

from beyondprop.layers.dropout import Dropout


def vgg8b(image: tuple[int, int, int], classes: int, *, dropout: float = 0.2, scale: float = 1.0) -> nn.Sequential:
    """Make six convolutions and one hidden linear layer, each with batch norm, leaky ReLU and dropout.

        128, 256, pool, 256, 512, pool, 512, pool, 512, pool;  linear to 1024;  linear to the classes

    Args:
        image: Channels, height and width, the last two at least 16.
        classes: Scores a sample.
        dropout: Probability with which outputs are dropped.
        scale: Of all widths.
    """
    channels, height, width = image
    layers: list[nn.Module] = []
    for full, pooled in ((128, False), (256, True), (256, False), (512, True), (512, True), (512, True)):
        wide = round(scale * full)
        layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.01)]
        if pooled:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        layers.append(Dropout(dropout))
        channels = wide
    last = round(scale * 1024)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channels * height * width, last, bias=False),
        nn.BatchNorm1d(last),
        nn.LeakyReLU(0.01),
        Dropout(dropout),
        nn.Linear(last, classes),
    )
