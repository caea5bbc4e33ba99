"""Which weights are there: a posterior over sparse rows, from a quadratic that stands for all of the data."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

Array = NDArray[np.float64]


class Edges(NamedTuple):
    """Of every row's weights.

    Attributes:
        probability: That the weight is not zero, shape (rows, weights).
        mean: Of the weight, of the same shape.
        deviation: Of the weight, of the same shape.
        share: Of weights that are not zero; its mean over the draws that count, as those of the next two.
        centre: Of those that are not zero.
        width: Their deviation; the geometric mean.
    """

    probability: Array
    mean: Array
    deviation: Array
    share: float
    centre: float
    width: float


class Shared(NamedTuple):
    """What all rows have in common and is not known either: parameters, whose own best value counts as zero.

    Attributes:
        precision: Shape (parameters, parameters).
        mixed: Second derivatives of what the data speak through, by weights and parameters, shape (rows, weights,
            parameters).
        slope: First derivatives by the parameters where the weights are `found`, shape (parameters,).
    """

    precision: Array
    mixed: Array
    slope: Array


def sparse_posterior(
    precision: Array, found: Array, *, shared: Shared | None = None, sweeps: int = 400, seed: int = 0
) -> Edges:
    """Draw which weights are there from the posterior of sparse rows, all rows side by side.

    A weight is zero with probability 1 - s, and else drawn from N(c, v^2) (spike and slab: George and McCulloch 1993);
    s, c and v are the same for all weights and are drawn along. The data speak through exp(-(w - w^)' P (w - w^) / 2).
    Whether a weight is there is drawn with all values integrated out (Geweke 1996): where nodes move alike, P leaves
    sums of weights certain and single ones not, and values that are drawn one by one would hardly ever move. After
    every sweep weights that are there are proposed to change places with others.

    Args:
        precision: P of each row, shape (rows, weights, weights).
        found: w^, where the data alone are best explained, shape (rows, weights).
        shared: Parameters that all rows share, drawn once a sweep; None where they are known.
        sweeps: Over all weights; the first half, in which the data gain their weight gradually, does not count.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    rows, count = found.shape
    pull = np.einsum("rij,rj->ri", precision, found)
    scale = max(float(np.sqrt(np.mean(found**2))), 1e-12)
    share, centre, width = 0.3, 0.0, scale
    there = np.zeros((rows, count), bool)
    sums = np.zeros((3, rows, count))
    slabs: list[tuple[float, float, float]] = []
    given, root = pull, None if shared is None else _inverse_root(shared.precision)
    for sweep in range(sweeps):
        heat = min(1.0, 10.0 ** (-3 + 6 * sweep / sweeps))  # 1 from the middle on
        sight = _Supports(heat * precision, heat * given + centre / width**2, width**-2, there)
        prior = np.log(share / (1 - share)) - np.log(width) - 0.5 * (centre / width) ** 2
        for each in random.permuted(np.tile(np.arange(count), (rows, 1)), axis=1).T:
            peak, total = sight.alone(each)
            chance = 1 / (1 + np.exp(-np.clip(prior + _evidence(peak, total), -500, 500)))
            sight.switch(each, random.random(rows) < chance)
            if sweep >= sweeps // 2:
                sums[:, np.arange(rows), each] += chance, chance * peak, chance * (peak**2 + 1 / total)
        for _ in range(count if count > 1 else 0):
            sight.exchange(random)
        values = np.where(there, sight.draw(random), 0.0)
        held = values[there]
        if shared is not None and root is not None:
            mean = -root @ (root.T @ (shared.slope + np.einsum("rjp,rj->p", shared.mixed, values - found)))
            drawn = mean + root @ random.standard_normal(len(mean)) / np.sqrt(heat)
            given = pull - shared.mixed @ drawn
        share = float(random.beta(1 + held.size, 1 + there.size - held.size))
        share = min(max(share, 0.5 / there.size), 1 - 0.5 / there.size)
        if held.size:
            # The width's prior, worth two weights, says a tenth of the mean: without one, weights that are alike are a
            # trap at width zero.
            typical = 0.1 * abs(held.mean()) + 1e-3 * np.sqrt(np.mean(held**2)) + 1e-9 * scale
            squares = np.sum((held - centre) ** 2) + 2 * typical**2
            width = float(np.sqrt(squares / random.chisquare(held.size + 2)))
            centre = float(held.mean() + width / np.sqrt(held.size) * random.standard_normal())
        if sweep >= sweeps // 2:
            slabs.append((share, centre, math.log(width)))
    probability, mean, square = sums / (sweeps - sweeps // 2)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    share, centre, log_width = np.mean(slabs, axis=0).tolist()
    return Edges(probability, mean, deviation, share, centre, math.exp(log_width))


def _inverse_root(precision: Array) -> Array:
    """R with R R' the inverse of a precision; directions that rounding alone would tell count as told a little."""
    size = np.sqrt(np.diag(precision))
    values, vectors = np.linalg.eigh(precision / np.outer(size, size))
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-5 * values[-1])) / size[:, None], np.float64)


def _evidence(peak: Array, total: Array) -> Array:
    """By how much more likely the data are with a weight than without it, apart from the prior; a logarithm."""
    return np.asarray(0.5 * (peak**2 * total - np.log(total)), np.float64)


class _Supports:
    """For every row the weights that are there, and the inverse of their precision, kept as one comes or goes.

    Args:
        precision: Of the data, shape (rows, weights, weights).
        moment: Precision times mean of data and prior together, shape (rows, weights).
        prior: Precision of a weight that is there, by itself.
        there: Which are, shape (rows, weights); changed in place.
    """

    def __init__(self, precision: Array, moment: Array, prior: float, there: NDArray[np.bool_]) -> None:
        self.precision, self.moment, self.prior, self.there = precision, moment, prior, there
        self.rows = np.arange(len(there))
        self.inverse = np.linalg.inv(self._both())

    def alone(self, j: NDArray[np.intp]) -> tuple[Array, Array]:
        """Mean and precision of one weight of each row, were it there; the others' values integrated out."""
        rows = self.rows
        others = self.precision[rows, j] * self.there
        others[rows, j] = 0
        moment, column, on = self.moment * self.there, self.inverse[rows, j], self.there[rows, j]
        peak, total = self._added(j, others, np.einsum("rij,rj->ri", self.inverse, others), moment)
        own = np.maximum(1 / column[rows, j], 0.5 * self.prior)
        return np.where(on, np.sum(column * moment, 1), peak), np.where(on, own, total)

    def _added(self, j: NDArray[np.intp], others: Array, reach: Array, moment: Array) -> tuple[Array, Array]:
        """Of a weight that is not there, from its precision with those that are, and their inverse times that."""
        self._reach, rows = reach, self.rows
        total = self.precision[rows, j, j] + self.prior - np.sum(others * reach, 1)
        self._total = np.maximum(total, 0.5 * self.prior)  # against rounding
        return (self.moment[rows, j] - np.sum(reach * moment, 1)) / self._total, self._total

    def switch(self, j: NDArray[np.intp], there: NDArray[np.bool_]) -> None:
        """Let one weight of each row, the one last looked at, be there or not: an update of rank one."""
        before = self.there[self.rows, j]
        for row in np.flatnonzero(there != before):
            at, inverse = j[row], self.inverse[row]
            if there[row]:
                total, reach = self._total[row], self._reach[row]
                dger(1 / total, reach, reach, a=inverse.T, overwrite_a=1)
                inverse[at] = inverse[:, at] = -reach / total
                inverse[at, at] = 1 / total
            else:
                column = inverse[at].copy()
                dger(-1 / column[at], column, column, a=inverse.T, overwrite_a=1)
                inverse[at] = inverse[:, at] = 0
                inverse[at, at] = 1 / self.prior
        self.there[self.rows, j] = there

    def exchange(self, random: np.random.Generator) -> None:
        """Let one weight of each row take another's place, or not (Metropolis): one of two alike must be there."""
        rows, keys = self.rows, random.random(self.there.shape)
        one, other = np.where(self.there, keys, -1).argmax(1), np.where(self.there, -1, keys).argmax(1)
        able = self.there[rows, one] & ~self.there[rows, other]
        column, moment = self.inverse[rows, one], self.moment * self.there
        own = column[rows, one]
        before = _evidence(np.sum(column * moment, 1), 1 / own)
        # The other one, with the first taken out of the inverse.
        others = self.precision[rows, other] * self.there
        others[rows, one] = others[rows, other] = moment[rows, one] = 0
        reach = np.einsum("rij,rj->ri", self.inverse, others)
        reach -= column * (np.sum(column * others, 1) / own)[:, None]
        after = _evidence(*self._added(other, others, reach, moment))
        taken = able & (np.log(random.random(len(able))) < after - before)
        self.switch(one, self.there[rows, one] & ~taken)
        self.switch(other, self.there[rows, other] | taken)

    def draw(self, random: np.random.Generator) -> Array:
        """Values of all weights that are there, from scratch; others have none of meaning."""
        both = self._both()
        root = np.linalg.cholesky(both)
        mean = np.linalg.solve(both, (self.moment * self.there)[..., None])
        return np.asarray((mean + np.linalg.solve(root.mT, random.standard_normal(mean.shape)))[..., 0], np.float64)

    def _both(self) -> Array:
        """Precision of data and prior; weights that are not there keep to themselves."""
        both = self.precision * self.there[:, :, None] * self.there[:, None, :]
        np.einsum("rii->ri", both)[...] += self.prior
        return np.asarray(both, np.float64)
