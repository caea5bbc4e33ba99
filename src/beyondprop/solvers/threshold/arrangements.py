"""Hyperplane arrangements: the patterns 1{Xu + b >= 0} that a threshold neuron can make of some samples."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from beyondprop.errors import UserError

Array = NDArray[np.float64]

MOST_RAYS = 50_000  # that an enumeration goes through; each costs a small singular value decomposition
AT_A_TIME = 2**24  # scores of samples that are made at a time: 128 MiB
STARTS, LINES = 64, 30  # of a search for the pattern that agrees best with a residual


@dataclass(frozen=True)
class Arrangements:
    """Distinct patterns of threshold neurons on some samples, with the neurons that make them.

    Attributes:
        patterns: 0 or 1, shape (samples, P).
        directions: u, shape (features, P).
        biases: b, shape (P,): at most as large as the nearest sample's distance needs, so that a sample that lies on
            a hyperplane exactly is on its side in spite of rounding.
    """

    patterns: Array
    directions: Array
    biases: Array

    @classmethod
    def of(cls, x: Array, directions: Array) -> Self:
        """Make those of given directions, each pattern once."""
        step = max(AT_A_TIME // len(x), 1)
        bits = [
            np.packbits(_scores(x, directions[:, start : start + step]) >= 0, axis=0)
            for start in range(0, directions.shape[1], step)
        ]
        directions = directions[:, np.sort(np.unique(np.hstack(bits), axis=1, return_index=True)[1])]
        scores = _scores(x, directions)
        patterns = scores >= 0
        nearest = np.where(patterns, -np.inf, scores).max(axis=0)  # the largest score that must stay below zero
        biases = np.where(np.isfinite(nearest), -nearest / 2, 1.0)
        return cls(patterns.astype(np.float64), directions, biases)

    def joined(self, other: Arrangements) -> Arrangements:
        """These and the patterns of another set that are new."""
        bits = np.packbits(np.hstack([self.patterns, other.patterns]).astype(bool), axis=0)
        first = np.sort(np.unique(bits, axis=1, return_index=True)[1])
        new = first[first >= self.patterns.shape[1]] - self.patterns.shape[1]
        return Arrangements(
            np.hstack([self.patterns, other.patterns[:, new]]),
            np.hstack([self.directions, other.directions[:, new]]),
            np.concatenate([self.biases, other.biases[new]]),
        )

    def chosen(self, columns: NDArray[np.intp]) -> Arrangements:
        """Some of them."""
        return Arrangements(self.patterns[:, columns], self.directions[:, columns], self.biases[columns])


def _scores(x: Array, directions: Array) -> Array:
    """Products, those that are zero but for rounding at zero."""
    scores: Array = x @ directions
    scores[np.abs(scores) <= tolerance(x) * np.linalg.norm(directions, axis=0)] = 0.0
    return scores


def tolerance(x: Array) -> float:
    """A score below it, for a direction of length 1, is zero but for rounding."""
    return 1e-10 * float(np.abs(x).max(initial=0.0)) * max(x.shape[1], 1)


def sampled(x: Array, count: int, generator: np.random.Generator) -> Arrangements:
    """Patterns of Gaussian directions.

    Args:
        x: Samples, shape (n, d).
        count: Directions that are drawn; patterns that come twice count once.
        generator: Draws them.
    """
    return Arrangements.of(x, generator.standard_normal((x.shape[1], count)))


def enumerated(x: Array) -> Arrangements:
    r"""All patterns that there are, exactly.

    The hyperplanes {u : x_i u = 0} cut space into cones. Every face of the arrangement but the origin has an extreme
    ray in its closure: samples off the ray's hyperplanes are on their sides of it, and those on them are arranged as
    they would be by themselves. So all patterns come from the rays, each a null vector of r - 1 samples (r the rank
    of X), and from smaller arrangements of the samples on their hyperplanes; and one from u = 0. Nothing is assumed
    about general position. In general position there are 2 Σ_{k<r} C(n-1, k) cones (Cover, 1965), each a pattern.

    Args:
        x: Samples, shape (n, d).

    Raises:
        UserError: There may be more than 50,000 rays.
    """
    _, values, basis = np.linalg.svd(x, full_matrices=False)
    rank = int((values > tolerance(x)).sum())
    basis = basis[:rank].T
    seeds = _rays(x @ basis, tolerance(x)) if rank else np.zeros((0, 1))
    return Arrangements.of(x, np.hstack([basis @ seeds, np.zeros((x.shape[1], 1))]))


def _rays(x: Array, small: float) -> Array:
    """Directions of full-rank samples that make every pattern but that of u = 0, shape (rank, count)."""
    rank = x.shape[1]
    rows = np.flatnonzero(np.linalg.norm(x, axis=1) > small)
    if math.comb(len(rows), rank - 1) > MOST_RAYS:
        raise UserError(
            f"{len(rows)} samples of rank {rank} have up to {math.comb(len(rows), rank - 1)} rays, and no more than "
            f"{MOST_RAYS} are gone through: sample patterns instead"
        )
    if rank == 1:
        return np.array([[1.0, -1.0]])
    subsets = np.array(list(itertools.combinations(rows, rank - 1)))
    _, values, frames = np.linalg.svd(x[subsets])
    rays = frames[values[:, -1] > small, -1]
    found, seen = [], set()
    for ray in rays:
        scores = x @ ray
        on = np.abs(scores) <= small
        if (key := on.tobytes()) in seen:
            continue
        seen.add(key)
        rest, off = x[on], scores[~on]
        frame = np.linalg.svd(rest, full_matrices=False)[2][: rank - 1].T  # spans the samples on the hyperplanes
        turns = frame @ _rays(rest @ frame, small)
        turns = np.hstack([turns, np.zeros((rank, 1))])
        reach = np.abs(x[~on] @ turns).max(axis=0)
        step = np.abs(off).min() / 2 / np.maximum(reach, small)  # so small that no other sample changes its side
        step = np.minimum(step, 1 / np.maximum(np.linalg.norm(turns, axis=0), small))
        found += [ray[:, None] + step * turns, step * turns - ray[:, None]]
    return np.hstack(found)


def priced(
    x: Array, residual: Array, generator: np.random.Generator, near: Array | None = None, starts: int = STARTS
) -> Arrangements:
    r"""Patterns d for which |dᵀ residual| is large: what a Lasso over more patterns would take next.

    Searches on lines, from Gaussian directions, the residual's own, Xᵀ residual, and those near which there may be
    more: along u + t v each sample changes its side once, so that the best t of a line is found exactly, by sorting
    and one cumulative sum. All starts move at once.

    Args:
        x: Samples, shape (n, d).
        residual: Shape (n,).
        generator: Draws directions.
        near: Directions to begin with as well, shape (d, count), such as those of neurons in use.
        starts: Further searches, half of them for the largest and half for the smallest sum.

    Returns:
        One pattern for each search, duplicates left out, in falling order of |dᵀ residual|.
    """
    count = max(starts // 2, 1)
    u = generator.standard_normal((x.shape[1], count))
    u[:, 0] = x.T @ residual
    near = np.zeros((x.shape[1], 0)) if near is None else near
    signs = np.sign((x @ near >= 0).T @ residual)
    found = [
        _climbed(x, sign * residual, np.hstack([sign * u, near[:, signs == sign]]), generator) for sign in (1.0, -1.0)
    ]
    made = Arrangements.of(x, np.hstack(found))
    return made.chosen(np.argsort(-np.abs(made.patterns.T @ residual), kind="stable"))


def _climbed(x: Array, gain: Array, u: Array, generator: np.random.Generator) -> Array:
    """Move directions, one a column, along lines that raise the sum of `gain` over their positive samples."""
    if len(x) == 1:  # no line has two sides of a crossing with samples on both
        return u
    columns = np.arange(u.shape[1])
    for _ in range(LINES):
        v = generator.standard_normal(u.shape)
        scores, slopes = x @ u, x @ v
        slopes[slopes == 0] = 1e-300
        crossing = -scores / slopes
        order = np.argsort(crossing, axis=0)
        # At t = -inf the positive samples are those with a negative slope; each crossing turns one.
        change = np.take_along_axis(gain[:, None] * np.sign(slopes), order, axis=0)
        start = np.where(slopes < 0, gain[:, None], 0.0).sum(axis=0)
        sums = start + np.cumsum(change, axis=0)[:-1]  # between one crossing and the next
        best = sums.argmax(axis=0)
        sides = np.take_along_axis(crossing, order, axis=0)
        t = (sides[best, columns] + sides[best + 1, columns]) / 2
        better = sums[best, columns] > np.where(scores >= 0, gain[:, None], 0.0).sum(axis=0)
        u = np.where(better & np.isfinite(t), u + t * v, u)
        u = u / np.maximum(np.linalg.norm(u, axis=0), 1e-300)
    return u
