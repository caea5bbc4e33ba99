"""Diffusive coupling of states in double precision, as simulations and closed forms have it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def coupling(states: Array, weights: Array, coupled: Sequence[int]) -> Array:
    """sum_j w_kj (x_j - x_k), in the coupled components alone.

    Args:
        states: Shape (..., nodes, components).
        weights: w_kj, from node j to node k, shape (nodes, nodes); the diagonal has no effect.
        coupled: Components that couple, each into itself.

    Returns:
        Of the states' shape; zero where nothing couples.
    """
    given = np.zeros_like(states)
    for c in coupled:
        given[..., c] = states[..., c] @ weights.T - weights.sum(1) * states[..., c]
    return given
