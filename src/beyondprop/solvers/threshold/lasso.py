r"""The convex program of a two-layer threshold network: a Lasso over hyperplane arrangements."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.solvers.threshold.active_set import minimise
from beyondprop.solvers.threshold.arrangements import Arrangements, enumerated, priced, sampled

Array = NDArray[np.float64]

ROUNDS = 300  # of pricing
SEARCHES = 5  # that must find nothing, one after another, for pricing to end
KEPT = 0.9  # of β: patterns whose correlation with the residual is below it, and that have no weight, are dropped
ALLOWED = 1e-9  # relative violation of a dual constraint that is rounding


@dataclass(frozen=True)
class LassoFit:
    """An optimum over some patterns.

    Attributes:
        weights: w, shape (P,); few are other than zero.
        objective: ½ ‖D w - y‖² + β ‖w‖₁.
        gap: Objective less the dual's value at the residual, scaled to be feasible for the patterns of D: at most
            this much is left to gain by other weights of the same patterns.
    """

    weights: Array
    objective: float
    gap: float


@dataclass(frozen=True)
class ArrangementFit:
    """An optimum over arrangements, and how far from the global one it can be.

    Attributes:
        arrangements: The patterns with a weight.
        weights: w of these, shape (m,).
        objective: ½ ‖D w - y‖² + β ‖w‖₁.
        gap: To the optimum over all patterns that were enumerated; or over those that were in use when pricing ended
            and those that its last searches have found.
        certified_gap: To the global optimum over all patterns, proven: `gap` where all were enumerated, else by the
            weak bound |dᵀr| <= max(Σ r₊, Σ r₋), which no search is needed for.
        exact: Whether all patterns were enumerated, so that the optimum is global.
        priced_out: Whether the last searches found no pattern that would lower the objective.
        objectives: After each round of pricing, falling.
    """

    arrangements: Arrangements
    weights: Array
    objective: float
    gap: float
    certified_gap: float
    exact: bool
    priced_out: bool
    objectives: tuple[float, ...] = field(default=())


def solve_lasso(patterns: Array, y: Array, beta: float, start: Array | None = None) -> LassoFit:
    r"""Solve min_w ½ ‖D w - y‖² + β ‖w‖₁, by `minimise`: the duality gap is that of rounding.

    Args:
        patterns: D, shape (n, P).
        y: Shape (n,).
        beta: β, above 0.
        start: Weights to begin with, shape (P,).
    """
    weights = minimise(patterns, y, beta, start)
    return LassoFit(weights, *_primal_and_gap(patterns, y, weights, beta))


def _primal_and_gap(
    patterns: Array, y: Array, weights: Array, beta: float, largest: float = 0.0
) -> tuple[float, float]:
    """Objective, and its distance to the dual's value θᵀy - ½ ‖θ‖² at the residual scaled into |dᵀθ| <= β.

    Args:
        patterns: D.
        y: Targets.
        weights: w.
        beta: β.
        largest: What |dᵀ residual| comes to for patterns that are not in D.
    """
    residual = y - patterns @ weights
    objective = residual @ residual / 2 + beta * np.abs(weights).sum()
    largest = max(largest, float(np.abs(patterns.T @ residual).max(initial=0.0)))
    theta = residual * min(1.0, beta / max(largest, 1e-300))
    return float(objective), float(max(objective - (theta @ y - theta @ theta / 2), 0.0))


def fit_arrangements(
    x: Array,
    y: Array,
    beta: float,
    *,
    patterns: int = 1000,
    exact: bool = False,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> ArrangementFit:
    r"""Train a two-layer threshold network through its convex program (Ergen et al., arXiv 2303.03382).

        min_w ½ ‖D w - y‖² + β ‖w‖₁,    D = all distinct columns 1{Xu >= 0}

    which has the optimum of min ½ ‖Σ_j s_j w_j 1{Xu_j >= 0} - y‖² + β/2 Σ_j (s_j² + w_j²) over networks of at least as
    many neurons as there are weights other than zero. Where D is too large to write down, it begins with sampled
    patterns, and then takes in those that violate the dual's constraint |dᵀr| <= β most (column generation), until
    several searches find none; a warning tells of rounds that ran out before. A search proves nothing: see
    `ArrangementFit.certified_gap`.

    Args:
        x: Samples, shape (n, d); a column of ones gives the neurons a bias.
        y: Targets, shape (n,).
        beta: β, above 0.
        patterns: How many are sampled first.
        exact: Whether all patterns are enumerated instead; for small rank.
        seed: Of sampling and pricing.
        rounds: Of pricing, at most.

    Raises:
        UserError: x and y do not fit, hold NaN, or an option is out of range; or there are too many patterns.
    """
    x, y = checked_samples(x, y)
    check_number(beta=beta, above=True)
    check_whole(1, patterns=patterns)
    check_whole(0, rounds=rounds)
    generator = np.random.default_rng(seed)
    pool = enumerated(x) if exact else sampled(x, patterns, generator)
    fit = solve_lasso(pool.patterns, y, beta)
    objectives, largest, priced_out = [fit.objective], 0.0, exact
    while not priced_out:
        residual = y - pool.patterns @ fit.weights
        near = pool.directions[:, fit.weights != 0]
        new, gains, wanted = _searched(x, residual, beta, generator, near)
        largest = float(gains.max(initial=0.0))
        priced_out = not len(wanted)
        if priced_out or len(objectives) > rounds:
            break
        kept = np.flatnonzero((fit.weights != 0) | (np.abs(pool.patterns.T @ residual) > KEPT * beta))
        weights = fit.weights[kept]
        pool = pool.chosen(kept).joined(new.chosen(wanted))
        fit = solve_lasso(pool.patterns, y, beta, np.append(weights, np.zeros(len(pool.biases) - len(weights))))
        objectives.append(fit.objective)
    if not priced_out and rounds:
        warnings.warn(
            f"after {rounds} rounds of pricing there are still patterns that lower the objective: give it more rounds, "
            "or a larger beta",
            stacklevel=2,
        )
    used = np.flatnonzero(fit.weights)
    neurons, weights = pool.chosen(used), fit.weights[used]
    residual = y - neurons.patterns @ weights
    bound = max(np.maximum(residual, 0).sum(), np.maximum(-residual, 0).sum())
    gap = _primal_and_gap(pool.patterns, y, fit.weights, beta, largest)[1]
    certified = gap if exact else _primal_and_gap(pool.patterns, y, fit.weights, beta, float(bound))[1]
    return ArrangementFit(neurons, weights, fit.objective, gap, certified, exact, priced_out, tuple(objectives))


def _searched(
    x: Array, residual: Array, beta: float, generator: np.random.Generator, near: Array
) -> tuple[Arrangements, Array, NDArray[np.intp]]:
    """Patterns of a search, their |dᵀ residual|, and which are beyond β: none after several searches in vain."""
    for _ in range(SEARCHES):
        new = priced(x, residual, generator, near)
        gains = np.abs(new.patterns.T @ residual)
        wanted = np.flatnonzero(gains > beta * (1 + ALLOWED))
        if len(wanted):
            break
    return new, gains, wanted


def checked_samples(x: Array, y: Array) -> tuple[Array, Array]:
    """Samples and targets in float64.

    Raises:
        UserError: They are no matrix and vector of one length, or not finite.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise UserError(f"x must have shape (n, d) and y (n,), with n at least 1: got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("the samples or targets hold NaN or infinity: clean the data before fitting")
    return x, y
