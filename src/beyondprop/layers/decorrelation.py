"""A layer that learns to make activities uncorrelated."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Decorrelation(nn.Module):
    """A square matrix behind a layer as in arXiv 2405.08967.

        x̂ = D x,    D ← D - η offdiag(E[x̂ x̂ᵀ]) D

    It does not learn by a loss: a rule that knows it writes `direction` as its gradient.

    Args:
        features: Length of x.

    >>> Decorrelation(3)(torch.ones(2, 3)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return D x for x of shape (..., features)."""
        return x @ self.weight.T

    def direction(self, outputs: Tensor) -> Tensor:
        """Compute offdiag(E[x̂ x̂ᵀ]) D, against which D moves.

        Args:
            outputs: x̂, shape (..., features); the mean is over all but the last dimension.
        """
        flat = outputs.flatten(0, -2)
        correlation = flat.T @ flat / len(flat)
        return (correlation - torch.diag(correlation.diagonal())) @ self.weight
