"""Evaluations shared out among processes that draw the same perturbations, and so have only costs to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Division:
    """Which of a call's evaluations are one process's own.

    Every process draws all perturbations, from the same generator state, and evaluates its own ones; then all hear all
    costs, and take the same step.

    Args:
        rank: Number of the process, from 0.
        ranks: How many there are; 1 evaluates all.
        exchange: Adds up a tensor over all processes, in place.
    """

    rank: int = 0
    ranks: int = 1
    exchange: Callable[[Tensor], None] | None = None

    def rows(self, count: int) -> Tensor:
        """Which of so many evaluations are this process's own, shape (own,); none where there are too few."""
        return torch.arange(min(self.rank, count), count, self.ranks)

    def complete(self, costs: Tensor, count: int) -> Tensor:
        """All costs, from those of the process's own evaluations.

        Args:
            costs: First dimension as `rows` gives it.
            count: Evaluations of all processes.
        """
        if self.exchange is None:
            return costs
        whole = torch.zeros(count, *costs.shape[1:], dtype=costs.dtype, device=costs.device)
        whole[self.rank :: self.ranks] = costs
        self.exchange(whole)  # every number is added to zeros alone: it stays the same bit by bit
        return whole
