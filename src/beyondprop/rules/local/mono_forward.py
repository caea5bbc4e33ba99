"""Mono-Forward: each layer is judged by a linear classifier of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.rules.local.blockwise import block_starts
from beyondprop.rules.local.local_losses import LocalLosses


class MonoForward(LocalLosses):
    """Mono-Forward (Gong, Li and Abdulla, arXiv 2501.09238, Section 3).

        G_k = h_k M_kᵀ,    l_k = cross_entropy(G_k, y)

    of which both the block's weights and its projection M_k (classes x units) learn. The network's output layer is the
    last hidden layer's projection, so these two are one block, and predictions are read there.

    Args: as `LocalLosses`, without `objective`.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> rule = MonoForward(network, torch.zeros(2, 4), 3)
    >>> [tuple(m.weight.shape) for m in rule.objectives]
    [(3, 8)]
    """

    def __init__(self, network: nn.Module, example: Tensor, classes: int, **options: Any) -> None:
        super().__init__(network, example, classes, objective=LinearScores, **options)

    @classmethod
    def default_starts(cls, network: nn.Module) -> list[int]:
        """As everywhere, but the output layer belongs to the last hidden one."""
        starts = block_starts(network)
        return starts[:-1] if len(starts) > 1 else starts


class LinearScores(nn.Linear):
    """A local linear classifier without bias, and its cross-entropy.

    Args:
        shape: Of the block's output, without the batch.
        classes: Number of classes.
    """

    def __init__(self, shape: torch.Size, classes: int, **options: Any) -> None:
        super().__init__(shape.numel(), classes, bias=False, **options)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        """Return the mean cross-entropy in nats.

        Args:
            h: The block's output, shape (batch, ...).
            y: Class indices, shape (batch,).
        """
        return F.cross_entropy(super().forward(h.flatten(1)), y)
