"""CwComp: the channels of every block stand for classes, and compete."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rules.local.local_losses import LocalLosses

Goodness = Literal["square", "mean"]


class ClassChannels(LocalLosses):
    """Channel-wise competitive learning, CwComp (Papachristodoulou et al., arXiv 2312.12668).

        g_kc = mean of h² over the channels of class c,    l_k = cross_entropy(g_k, y)

    The channels (or units) of every hidden block are divided among the classes, in order and as evenly as they go; a
    block learns nothing beside the network's own weights. The output layer is a block of its own, trained by `loss`.

    Args:
        network, example, classes, blocks, loss, order: As `LocalLosses`.
        goodness: What a class's score is: the mean `"square"` of its channels, or their `"mean"`, as in DeeperForward
            (Sun et al., ICLR 2025), which wants a normalisation in each block.

    Raises:
        UnsupportedNetworkError: A hidden block has fewer channels than there are classes; the message names it.
        UserError: `goodness` is none of these; and as `LocalLosses`.

    >>> network = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))
    >>> rule = ClassChannels(network, torch.zeros(2, 4), 3)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        goodness: Goodness = "square",
        **options: Any,
    ) -> None:
        if goodness not in ("square", "mean"):
            raise UserError(f"goodness must be 'square' or 'mean', got {goodness!r}")
        self.goodness = goodness
        made = 0

        def objective(shape: torch.Size, classes: int) -> GroupScores:
            nonlocal made
            made += 1
            if shape[0] < classes:
                raise UnsupportedNetworkError(
                    f"block {made} gives {shape[0]} channels, fewer than one for each of {classes} classes"
                )
            return GroupScores(shape[0], classes, goodness)

        super().__init__(network, example, classes, objective=objective, **options)


class GroupScores(nn.Module):
    """The local loss of `ClassChannels`.

    Args:
        channels: Of the block's output, its first dimension after the batch.
        classes: Number of classes, at most as many.
        goodness: `"square"` or `"mean"`.
    """

    averages: Tensor

    def __init__(self, channels: int, classes: int, goodness: Goodness) -> None:
        super().__init__()
        self.goodness = goodness
        groups = torch.arange(channels).tensor_split(classes)
        averages = torch.zeros(classes, channels)
        for row, group in zip(averages, groups, strict=True):
            row[group] = 1 / len(group)
        self.register_buffer("averages", averages, persistent=False)

    def scores(self, h: Tensor) -> Tensor:
        """Return goodness, shape (batch, classes), for a block's output of shape (batch, channels, ...)."""
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(self.averages.dtype)
            active = h.square() if self.goodness == "square" else h
            each = active.flatten(2).mean(dim=2) if h.ndim > 2 else active
            return each @ self.averages.T

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats; y is class indices, shape (batch,)."""
        return F.cross_entropy(self.scores(h), y)
