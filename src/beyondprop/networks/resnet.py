"""ResNet-18 (He et al., arXiv 1512.03385) for images of CIFAR's size, whose first layers keep the resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """ReLU(s(h) + (conv 3x3 - BN - ReLU - conv 3x3 - BN)(h)); s is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(self.shortcut(h) + self.change(h))


def resnet18(image: tuple[int, int, int], classes: int, *, width: int = 64) -> nn.Sequential:
    """Make the network: conv 3x3 - BN - ReLU, four stages of two blocks, the mean of each channel, linear.

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        width: Channels of the first stage; each later stage has twice as many and half of the resolution.
    """
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = [nn.Conv2d(image[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for number in range(4):
        layers += [
            BasicBlock(widths[number], widths[number + 1], 1 if number == 0 else 2),
            BasicBlock(widths[number + 1], widths[number + 1], 1),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes))
