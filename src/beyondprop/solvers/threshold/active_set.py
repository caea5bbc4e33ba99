r"""The Lasso by an active set: exact up to rounding, however much its columns are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]

ROUNDING = 1e-10  # of β: a correlation that is no further beyond it is at it
UNSOLVED = 1e-9  # of β: what a system of equations may leave over
STEPS = 100  # for each sample, at most: a safeguard against steps that rounding turns into a circle


def minimise(columns: Array, y: Array, beta: float, start: Array | None = None) -> Array:
    r"""Find w that minimises ½ ‖D w - y‖² + β ‖w‖₁.

    The columns in use, each with the sign that its weight has, are moved to their optimum, which a linear system gives;
    the first weight that would turn its sign on the way there leaves. When all are there, the column whose correlation
    with the residual is furthest beyond β comes in. Every step lowers the objective, so that no set comes twice (the
    feature-sign search of Lee, Battle, Raina and Ng, 2006, with one column out at a time). Patterns of a few hundred
    samples are so much alike that coordinate descent is far from the optimum after thousands of passes.

    Args:
        columns: D, shape (n, P).
        y: Shape (n,).
        beta: β, above 0.
        start: Weights to begin with, near the optimum of fewer columns, say; of more than n columns they are of no use.
    """
    with threadpool_limits(1, "blas"):  # systems this small take many times as long where threads wait for each other
        return _minimise(columns, y, beta, start)


def _minimise(columns: Array, y: Array, beta: float, start: Array | None) -> Array:
    weights = np.zeros(columns.shape[1])
    if start is not None and np.count_nonzero(start) <= len(y):
        weights += start
    used = np.flatnonzero(weights)
    signs: Array = np.sign(weights[used])
    gram: Array = columns[:, used].T @ columns[:, used]
    for _ in range(STEPS * max(len(y), 10)):
        chosen = columns[:, used]
        residual = y - chosen @ weights[used]
        pull = chosen.T @ residual - beta * signs
        if np.abs(pull).max(initial=0.0) <= UNSOLVED * beta:
            beyond = np.abs(columns.T @ residual)
            beyond[used] = 0.0
            new = int(beyond.argmax()) if len(beyond) else 0
            if not len(beyond) or beyond[new] <= beta * (1 + ROUNDING):
                break
            column = columns[:, new]
            row = chosen.T @ column
            gram = np.vstack([np.column_stack([gram, row]), np.append(row, column @ column)])
            used, signs = np.append(used, new), np.append(signs, np.sign(column @ residual))
            continue
        way, whole = _direction(gram, pull, beta)
        now = weights[used]
        until = np.full(len(used), np.inf)  # how far each weight can go before it is zero
        back = way * signs < 0
        until[back] = -now[back] / way[back]
        step = min(whole, float(until.min()))
        if not np.isfinite(step):
            break
        weights[used] = now + step * way
        kept = until > step
        if not kept.all():
            weights[used[~kept]] = 0.0
            used, signs, gram = used[kept], signs[kept], gram[np.ix_(kept, kept)]
    return weights


def _direction(gram: Array, pull: Array, beta: float) -> tuple[Array, float]:
    """Which way the optimum of the columns in use lies, and how far: without end, perhaps, where they are dependent."""
    try:
        factor = cho_factor(gram, check_finite=False)
        way = cho_solve(factor, pull, check_finite=False)
        way += cho_solve(factor, pull - gram @ way, check_finite=False)
        if np.abs(pull - gram @ way).max() <= UNSOLVED * beta:
            return way, 1.0
    except np.linalg.LinAlgError:
        pass
    way = np.linalg.lstsq(gram, pull, rcond=1e-12)[0].astype(np.float64)
    over: Array = pull - gram @ way
    # What is left over changes nothing that the columns add up to, and lowers the sum of weights.
    return (way, 1.0) if np.abs(over).max() <= UNSOLVED * beta else (over, np.inf)
