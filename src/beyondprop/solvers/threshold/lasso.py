r"""The convex program of a two-layer threshold network: a Lasso over hyperplane arrangements."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.solvers.threshold.arrangements import Arrangements, enumerated, priced, sampled

Array = NDArray[np.float64]

ROUNDS = 30  # of pricing
TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)  # of coordinate descent, one after another
SMALL_GAP = 1e-9  # of the objective: no further descent is needed
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
        gap: To the optimum over all patterns that were enumerated or that pricing has found.
        certified_gap: To the global optimum over all patterns, proven: `gap` where all were enumerated, else by the
            weak bound |dᵀr| <= max(Σ r₊, Σ r₋), which no search is needed for.
        exact: Whether all patterns were enumerated, so that the optimum is global.
        objectives: After each round of pricing, falling.
    """

    arrangements: Arrangements
    weights: Array
    objective: float
    gap: float
    certified_gap: float
    exact: bool
    objectives: tuple[float, ...] = field(default=())


def solve_lasso(patterns: Array, y: Array, beta: float) -> LassoFit:
    r"""Solve min_w ½ ‖D w - y‖² + β ‖w‖₁.

    Coordinate descent (scikit-learn's) finds the support, as roughly as will do; on it the optimum is a linear system,
    which is solved directly, so that the duality gap is that of rounding.

    Args:
        patterns: D, shape (n, P).
        y: Shape (n,).
        beta: β, above 0.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import Lasso  # noqa: PLC0415  # takes a second

    n = len(y)
    model = Lasso(alpha=beta / n, fit_intercept=False, warm_start=True, max_iter=2000)
    columns = np.asfortranarray(patterns)
    best = LassoFit(np.zeros(patterns.shape[1]), *_primal_and_gap(patterns, y, np.zeros(patterns.shape[1]), beta))
    for tol in TOLERANCES:
        if best.gap <= SMALL_GAP * best.objective:
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the gap below tells
            rough = model.set_params(tol=tol).fit(columns, y).coef_
        for weights in (rough, _polished(patterns, y, rough, beta)):
            fit = LassoFit(weights.copy(), *_primal_and_gap(patterns, y, weights, beta))
            best = fit if fit.gap < best.gap else best
    return best


def _polished(patterns: Array, y: Array, weights: Array, beta: float) -> Array:
    """Solve for the optimum on the support of nearly optimal weights; a weight whose sign would turn leaves it."""
    support = np.flatnonzero(np.abs(weights) > 1e-9 * np.abs(weights).max())
    signs = np.sign(weights)
    while len(support):
        d = patterns[:, support]
        found, *_ = np.linalg.lstsq(d.T @ d, d.T @ y - beta * signs[support], rcond=1e-12)
        kept = found * signs[support] > 0
        if kept.all():
            polished = np.zeros_like(weights)
            polished[support] = found
            return polished
        support = support[kept]
    return np.zeros_like(weights)


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
    patterns, and then takes in those that violate the dual's constraint |dᵀr| <= β most (column generation), until the
    search finds none. A search proves nothing: see `ArrangementFit.certified_gap`.

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
    objectives, largest = [fit.objective], 0.0
    while not exact:
        residual = y - pool.patterns @ fit.weights
        new = priced(x, residual, generator)
        gains = np.abs(new.patterns.T @ residual)
        largest = float(gains.max(initial=0.0))
        wanted = np.flatnonzero(gains > beta * (1 + ALLOWED))
        if not len(wanted) or len(objectives) > rounds:
            break
        # What has no weight is dropped: it comes back when it is wanted.
        pool = pool.chosen(np.flatnonzero(fit.weights)).joined(new.chosen(wanted))
        fit = solve_lasso(pool.patterns, y, beta)
        objectives.append(fit.objective)
    used = np.flatnonzero(fit.weights)
    kept, weights = pool.chosen(used), fit.weights[used]
    residual = y - kept.patterns @ weights
    bound = max(np.maximum(residual, 0).sum(), np.maximum(-residual, 0).sum())
    gap = _primal_and_gap(pool.patterns, y, fit.weights, beta, largest)[1]
    certified = gap if exact else _primal_and_gap(pool.patterns, y, fit.weights, beta, float(bound))[1]
    return ArrangementFit(kept, weights, fit.objective, gap, certified, exact, tuple(objectives))


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
