r"""The convex program of a deep threshold network on samples that its last hidden layer can shatter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from beyondprop.checks import check_number
from beyondprop.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ShatteredFit:
    """The global optimum over everything that a last hidden layer can do that makes every pattern.

    Attributes:
        outputs: δ, what the network says of each sample, shape (n,).
        objective: ½ ‖δ - y‖² + β (‖δ₊‖_∞ + ‖δ₋‖_∞).
        gap: Objective less the dual's value θᵀy - ½ ‖θ‖² at the residual y - δ, scaled into max(Σ θ₊, Σ θ₋) <= β: no
            more than this is left to gain.
    """

    outputs: Array
    objective: float
    gap: float

    @cached_property
    def patterns(self) -> Array:
        """Of the last hidden layer's neurons, 0 or 1, shape (n, m); made when asked for, as m may be as large as n."""
        sides = zip((self.outputs, -self.outputs), self._levels, strict=True)
        return np.hstack([side[:, None] >= levels for side, levels in sides], dtype=np.float64, casting="unsafe")

    @cached_property
    def weights(self) -> Array:
        """What each neuron adds to the output, shape (m,)."""
        upper, lower = (np.diff(levels, prepend=0.0) for levels in self._levels)
        return np.concatenate([upper, -lower])

    @cached_property
    def _levels(self) -> tuple[Array, Array]:
        """Distinct levels of δ₊ and of δ₋, rising."""
        upper, lower = (np.unique(side[side > 0]) for side in (self.outputs, -self.outputs))
        return upper, lower


def fit_shattered(y: Array, beta: float, counts: Array | None = None) -> ShatteredFit:
    r"""Solve the program of a network of three or more layers in closed form (Ergen et al., arXiv 2303.03382).

        min_δ ½ ‖δ - y‖² + β (‖δ₊‖_∞ + ‖δ₋‖_∞)

    It depends on the targets alone: positive and negative targets part, and those of a sign are cut off at the level
    c for which Σ (y - c)₊ = β (the proximal operator of the maximum), or are all zero where they sum to β or less.
    One sort, so O(n log n). The paper solves it with a conic solver; the closed form is ours.

    Neurons: the distinct levels of δ₊ in rising order, each a neuron that is on for all samples at least as high, and
    adds the step from the level below; likewise for δ₋. For targets of ±1 these are two neurons.

    Args:
        y: Targets, shape (n,).
        beta: β, above 0.
        counts: How often each target stands for a sample, shape (n,); by default once.

    Raises:
        UserError: y is no vector of finite numbers, or β is not above 0.

    >>> fit_shattered(np.array([1.0, 1.0, -1.0]), 0.5).outputs
    array([ 0.75,  0.75, -0.5 ])
    """
    y = np.asarray(y, dtype=np.float64)
    if y.ndim != 1 or not len(y) or not np.isfinite(y).all():
        raise UserError(f"y must be a vector of finite numbers, with at least one: got shape {y.shape}")
    check_number(beta=beta, above=True)
    counts = np.ones(len(y)) if counts is None else np.asarray(counts, dtype=np.float64)
    upper, lower = (_capped(np.maximum(side, 0.0), counts, beta) for side in (y, -y))
    outputs = upper - lower
    objective = float(counts @ (outputs - y) ** 2 / 2 + beta * (upper.max() + lower.max()))
    theta = y - outputs
    largest = max(float(counts @ np.maximum(side, 0.0)) for side in (theta, -theta))
    theta *= min(1.0, beta / max(largest, 1e-300))
    dual = float(counts @ (theta * y - theta**2 / 2))
    return ShatteredFit(outputs, objective, max(objective - dual, 0.0))


def _capped(values: Array, counts: Array, beta: float) -> Array:
    """Values of at least 0, cut off at the level above which they sum to β."""
    order = np.argsort(-values, kind="stable")
    falling, weight = values[order], np.cumsum(counts[order])
    levels = (np.cumsum(counts[order] * falling) - beta) / weight  # if the first k are cut off
    below = np.append(falling[1:], 0.0)
    cut = np.flatnonzero(levels >= below)  # the first k whose level is not below the next value
    return np.minimum(values, levels[cut[0]]) if len(cut) else np.zeros_like(values)
