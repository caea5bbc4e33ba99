"""A residual image encoder for few epochs: the layers of DAWNBench's ResNet-9, halved in resolution once more."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def residual_encoder(channels: int, width: int = 64, depth: int = 1) -> nn.Sequential:
    """Make three residual stages that give a vector of `4 * width` numbers a sample.

        conv 3x3 (width) - pool - BN - ReLU
        depth residual blocks of width
        conv 3x3 (2 width) - pool - BN - ReLU,  depth residual blocks of 2 width
        conv 3x3 (4 width) - pool - BN - ReLU,  depth residual blocks of 4 width
        the largest value of each channel

    A residual block is h + (conv - BN - ReLU - conv - BN)(h), then ReLU. The layers and their order (pooling before the
    norm, one maximum at the end) are those of the ResNet-9 with which D. Page won the DAWNBench contest of CIFAR-10
    (github.com/davidcpage/cifar10-fast); its first stage, at full resolution, has become a pooled stem, so that three
    quarters of the elements which norms and activations touch are gone. Each residual branch starts at zero, by its
    last norm.

    Args:
        channels: Of the images, which are at least 8x8; any size does.
        width: Channels of the first stage; the next two have twice and four times as many.
        depth: Residual blocks in each stage.
    """
    widths = (width, 2 * width, 4 * width)
    layers: list[nn.Module] = []
    for before, after in zip((channels, *widths), widths, strict=False):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            BatchNorm2d(after),
            nn.ReLU(),
            *(ResidualBlock(after) for _ in range(depth)),
        ]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())


class ResidualBlock(nn.Module):
    """ReLU(h + (conv 3x3 - BN - ReLU - conv 3x3 - BN)(h)); the branch starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = BatchNorm2d(width)
        nn.init.zeros_(last.weight)
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            last,
        )

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(h + self.change(h))


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that takes a batch of one pixel as evaluation does: one value has no variance to learn."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)
