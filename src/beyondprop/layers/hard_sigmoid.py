"""Activations between 0 and 1 for the states of networks that settle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number


class HardSigmoid(nn.Module):
    """clip(x / width, 0, 1) (Laborieux et al., arXiv 2006.03824: width 2 for CIFAR-10, 1 elsewhere).

    Args:
        width: Of the interval in which it rises.

    >>> HardSigmoid(width=2.0)(torch.tensor([-1.0, 0.5, 3.0]))
    tensor([0.0000, 0.2500, 1.0000])
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        check_number(width=width, above=True)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return (x if self.width == 1 else x / self.width).clamp(0, 1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"width={self.width}"


class SteepSigmoid(nn.Module):
    """1 / (1 + exp(-4 (x - 1/2))), the smooth twin of the hard sigmoid of width 1.

    >>> SteepSigmoid()(torch.tensor([0.5]))
    tensor([0.5000])
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.sigmoid(4 * x - 2)
