"""Which weights are there: a posterior over sparse rows, from a quadratic that stands for all of the data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Edges(NamedTuple):
    """Of every row's weights.

    Attributes:
        probability: That the weight is not zero, shape (rows, weights).
        mean: Of the weight, of the same shape.
        deviation: Of the weight, of the same shape.
        share: Of weights that are not zero, as found.
        centre: Of those that are not zero, as found.
        width: Their deviation, as found.
    """

    probability: Array
    mean: Array
    deviation: Array
    share: float
    centre: float
    width: float


def sparse_posterior(precision: Array, found: Array, *, sweeps: int = 400, seed: int = 0) -> Edges:
    """Draw from the posterior of sparse rows by Gibbs sampling, all rows side by side.

    A weight is zero with probability 1 - s, and else drawn from N(c, v^2) (spike and slab: George and McCulloch 1993);
    s, c and v are the same for all weights and are drawn along. The data speak through exp(-(w - w^)' P (w - w^) / 2).

    Args:
        precision: P of each row, shape (rows, weights, weights).
        found: w^, where the data alone are best explained, shape (rows, weights).
        sweeps: Over all weights; the first half, in which the data gain their weight gradually, does not count.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    rows, count = found.shape
    pull = np.einsum("rij,rj->ri", precision, found)
    diagonal = np.einsum("rii->ri", precision).copy()
    scale = max(float(np.sqrt(np.mean(found**2))), 1e-12)
    share, centre, width = 0.3, 0.0, scale
    w = np.zeros_like(found)
    sums = np.zeros((3, rows, count))
    for sweep in range(sweeps):
        heat = min(1.0, 10.0 ** (-3 + 6 * sweep / sweeps))  # 1 from the middle on
        for j in random.permutation(count):
            own = diagonal[:, j] * heat
            rest = heat * (pull[:, j] - np.einsum("ri,ri->r", precision[:, j], w) + diagonal[:, j] * w[:, j])
            total = own + width**-2
            peak = (rest + centre / width**2) / total
            odds = 0.5 * (peak**2 * total - centre**2 / width**2) - 0.5 * np.log(total * width**2)
            odds += np.log(share / (1 - share))
            chance = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
            there = random.random(rows) < chance
            w[:, j] = np.where(there, peak + random.standard_normal(rows) / np.sqrt(total), 0.0)
            if sweep >= sweeps // 2:
                mean = chance * peak
                sums[:, :, j] += chance, mean, chance * (peak**2 + 1 / total)
        held = w[w != 0]
        share = float(random.beta(1 + held.size, 1 + w.size - held.size))
        share = min(max(share, 0.5 / w.size), 1 - 0.5 / w.size)
        if held.size > 2:
            width = float(np.sqrt((np.sum((held - centre) ** 2) + 1e-6 * scale**2) / random.chisquare(held.size)))
            centre = float(held.mean() + width / np.sqrt(held.size) * random.standard_normal())
    probability, mean, square = sums / (sweeps - sweeps // 2)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return Edges(probability, mean, deviation, share, centre, width)
