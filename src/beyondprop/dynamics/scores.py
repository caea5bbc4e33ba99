"""How well a network was found: edges, weights, and how long a free run stays with the true one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from beyondprop.errors import UserError

Array = NDArray[np.floating]
APART = 0.4  # of the states' deviation: a prediction that is off by more is no longer valid


def edge_auc(confidence: Array, weights: Array) -> float:
    """The chance that an edge has more confidence than a pair of nodes without one; ties count half.

    Args:
        confidence: Of each edge, shape (nodes, nodes); the diagonal is left out.
        weights: The true ones, of the same shape: other than zero where there is an edge.

    Raises:
        UserError: There is no edge, or nothing else.

    >>> edge_auc(np.array([[0, 0.9], [0.2, 0]]), np.array([[0, 0.3], [0, 0]]))
    1.0
    """
    off = ~np.eye(len(weights), dtype=bool)
    there, ranks = weights[off] != 0, rankdata(np.asarray(confidence)[off])
    edges, rest = int(there.sum()), int((~there).sum())
    if not edges or not rest:
        raise UserError("an area under the curve needs edges and pairs without one")
    return float((ranks[there].sum() - edges * (edges + 1) / 2) / (edges * rest))


def weight_rmse(found: Array, weights: Array) -> float:
    """Root mean squared error of the weights, over all pairs of nodes."""
    off = ~np.eye(len(weights), dtype=bool)
    return float(np.sqrt(np.mean((np.asarray(found) - weights)[off] ** 2)))


def valid_steps(predicted: Array, true: Array, scale: Array, apart: float = APART) -> Array:
    """Steps until a prediction leaves the truth.

    Args:
        predicted: Shape (..., time, nodes, components).
        true: Of the same shape.
        scale: Deviation of each component.
        apart: Root mean squared error over nodes and components, in these deviations, from which on it is not valid.

    Returns:
        Shape (...): the first step that is not valid; the length where all are.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a run that leaves for infinity is just late
        error = np.sqrt(np.mean(((predicted - true) / scale) ** 2, axis=(-2, -1)))
    late = ~(error <= apart)  # NaN is late, too
    return np.where(late.any(-1), late.argmax(-1), late.shape[-1])
