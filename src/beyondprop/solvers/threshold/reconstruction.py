"""Weights of a threshold network that makes given patterns in its last hidden layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beyondprop.errors import UserError

Array = NDArray[np.float64]

JITTER = 1e-10  # of the mean of the Gram matrix's diagonal; what it does to a pattern is far below the margin of 1/2
HARD = 1e6  # C of a support vector machine without slack
MOST_STEPS = 1_000_000  # of its solver
WIDER = 4  # doublings of a first layer that cannot tell all samples apart


@dataclass(frozen=True)
class HiddenLayers:
    """Two hidden layers, h1 = 1{x W1 + b1 >= 0} and h2 = 1{h1 W2 + b2 >= 0}.

    Attributes:
        first, first_bias: Shapes (d, P) and (P,).
        second, second_bias: Shapes (P, m) and (m,).
    """

    first: Array
    first_bias: Array
    second: Array
    second_bias: Array

    def patterns(self, x: Array) -> Array:
        """What the second hidden layer says of samples, 0 or 1, shape (n, m)."""
        hidden = (x @ self.first + self.first_bias >= 0).astype(np.float64)
        return (hidden @ self.second + self.second_bias >= 0).astype(np.float64)


def by_pseudo_inverse(x: Array, patterns: Array, directions: Array) -> HiddenLayers:
    r"""Make patterns by the shortest second-layer weights, pinv(H) d, and the level 1/2.

    H = 1{X U >= 0} for a first layer of random directions, which has rank n where there are enough of them and no
    sample comes twice. H v = d is met exactly, and the level 1/2 halves what rounding, or an unseen sample, may do.

    Args:
        x: Samples, shape (n, d).
        patterns: Shape (n, m).
        directions: U, shape (d, P).

    Raises:
        UserError: The first layer is too narrow for the patterns, or the same sample is to be on and off.
    """
    hidden = (x @ directions >= 0).astype(np.float32)
    gram = (hidden @ hidden.T).astype(np.float64)  # whole numbers below 2^24: exact in float32
    gram.flat[:: len(gram) + 1] += JITTER * gram.diagonal().mean()
    from scipy.linalg import cho_factor, cho_solve  # noqa: PLC0415  # only where a network is reconstructed

    try:
        factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise _too_narrow(directions) from None
    zeros = np.zeros(directions.shape[1])
    second = hidden.T.astype(np.float64) @ cho_solve(factor, patterns, check_finite=False)
    return _verified(x, patterns, HiddenLayers(directions, zeros, second, np.full(patterns.shape[1], -0.5)))


def by_margin(x: Array, patterns: Array, directions: Array) -> HiddenLayers:
    """Make patterns by second-layer weights of the largest margin: a support vector machine without slack each.

    Where the margin is so small that the machine's solver leaves a sample on the wrong side, all is made by the
    pseudo-inverse instead.

    Args:
        x: Samples, shape (n, d).
        patterns: Shape (n, m).
        directions: U, shape (d, P), of the first layer.

    Raises:
        UserError: As `by_pseudo_inverse`.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.svm import SVC  # noqa: PLC0415  # takes a second

    hidden = (x @ directions >= 0).astype(np.float32)
    gram = (hidden @ hidden.T).astype(np.float64)
    scale = max(float(gram.diagonal().mean()), 1.0)
    second, bias = np.zeros((directions.shape[1], patterns.shape[1])), np.zeros(patterns.shape[1])
    solved: dict[bytes, int] = {}
    for column, pattern in enumerate(patterns.T):
        if pattern.min() == pattern.max():
            bias[column] = 1.0 if pattern[0] else -1.0
            continue
        other = solved.get((1 - pattern).tobytes())
        if other is not None:  # targets of ±1 have two patterns, one the other's opposite
            second[:, column], bias[column] = -second[:, other], -bias[other]
            continue
        solved[pattern.tobytes()] = column
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what it makes is verified
            machine = SVC(kernel="precomputed", C=HARD, tol=1e-4, cache_size=500, max_iter=MOST_STEPS)
            machine.fit(gram / scale, pattern)
        second[:, column] = hidden[machine.support_].T @ machine.dual_coef_[0] / scale
        bias[column] = machine.intercept_[0]
    try:
        return _verified(x, patterns, HiddenLayers(directions, np.zeros(directions.shape[1]), second, bias))
    except UserError:
        return by_pseudo_inverse(x, patterns, directions)


def by_staircase(x: Array, patterns: Array, direction: Array) -> HiddenLayers:
    """Make patterns by one direction and a level between each two samples along it: any pattern, in O(n log n).

    The first layer's outputs are a lower triangle of ones, so the second layer's weights are differences of the pattern
    along the direction; levels at which no pattern changes are left out. It is exact and fast, and says little about
    other samples. The network has a neuron for each level, so that it predicts in O(n) for each sample.

    Args:
        x: Samples, shape (n, d).
        patterns: Shape (n, m).
        direction: Shape (d,); samples of different patterns must differ along it.

    Raises:
        UserError: Samples of different patterns have the same projection.
    """
    projections = x @ direction
    order = np.argsort(projections, kind="stable")
    along, wanted = projections[order], patterns[order]
    steps = np.flatnonzero((np.diff(wanted, axis=0) != 0).any(axis=1))
    levels = np.concatenate([[along[0] - 1.0], (along[steps] + along[steps + 1]) / 2])
    second = np.diff(wanted[np.concatenate([[0], steps + 1])], axis=0, prepend=np.zeros((1, patterns.shape[1])))
    first = np.repeat(direction[:, None], len(levels), axis=1)
    # What the layers make, without a number for every sample and level: the neurons on are those of the levels below.
    made = np.cumsum(second, axis=0)[np.searchsorted(levels, projections, side="right") - 1] >= 0.5
    if not np.array_equal(made, patterns):
        raise _too_narrow(first)
    return HiddenLayers(first, -levels, second, np.full(patterns.shape[1], -0.5))


def with_width(
    make: Callable[[Array, Array, Array], HiddenLayers], x: Array, patterns: Array, hidden: int, seed: int
) -> HiddenLayers:
    """Make patterns over random directions, twice as many where these do not tell all samples apart, four times over.

    Args:
        make: `by_margin` or `by_pseudo_inverse`.
        x: Samples, shape (n, d).
        patterns: Shape (n, m).
        hidden: Directions to begin with.
        seed: They are drawn from.

    Raises:
        UserError: The widest first layer is too narrow, or the same sample is to be on and off.
    """
    _check_repeated(x, patterns)
    for doubling in range(WIDER + 1):
        directions = np.random.default_rng(seed).standard_normal((x.shape[1], hidden << doubling))
        try:
            return make(x, patterns, directions)
        except UserError as error:
            if doubling == WIDER:
                raise error from None
    raise AssertionError("the loop returns or raises")


def _check_repeated(x: Array, patterns: Array) -> None:
    """Refuse what no first layer can tell apart, before wider and wider ones are tried."""
    alone = len(np.unique(x, axis=0))
    if alone < len(x) and len(np.unique(np.hstack([x, patterns]), axis=0)) > alone:
        raise UserError(
            "some samples are there twice with different targets, and no network tells them apart: leave them out"
        )


def _verified(x: Array, patterns: Array, layers: HiddenLayers) -> HiddenLayers:
    if not np.array_equal(layers.patterns(x), patterns):
        raise _too_narrow(layers.first)
    return layers


def _too_narrow(directions: Array) -> UserError:
    return UserError(
        f"a first layer of {directions.shape[1]} neurons cannot tell all samples apart: give it more, at least as many "
        "as there are samples, and leave out samples that are there twice with different targets"
    )
