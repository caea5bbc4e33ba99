"""Simulated networks: random graphs, and integration by scipy's solvers, with noise of process and observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from beyondprop.checks import check_number, check_whole
from beyondprop.dynamics.checked import checked_components
from beyondprop.dynamics.coupling import coupling
from beyondprop.dynamics.systems import System
from beyondprop.errors import UserError

Array = NDArray[np.float64]
FAR = 1e6  # where states count as lost


def random_weights(
    nodes: int, probability: float, *, mean: float = 0.3, deviation: float = 0.1, seed: int = 0
) -> Array:
    """A directed random graph of Erdos and Renyi with normally distributed weights.

    Args:
        nodes: At least 2.
        probability: Of each edge, in each direction by itself.
        mean: Of the weights; below zero for negative coupling.
        deviation: Of the weights.
        seed: Of the draws.

    Returns:
        w_kj, from node j to node k, shape (nodes, nodes), zero diagonal.

    Raises:
        UserError: A number is out of range.
    """
    check_whole(2, nodes=nodes)
    check_number(probability=probability, deviation=deviation)
    if probability > 1:
        raise UserError(f"probability must be at most 1, got {probability!r}")
    random = np.random.default_rng(seed)
    there = random.random((nodes, nodes)) < probability
    np.fill_diagonal(there, val=False)
    return np.where(there, random.normal(mean, deviation, (nodes, nodes)), 0.0)


def network_slope(system: System, weights: Array, coupled: Sequence[int], t: float, x: Array) -> Array:
    """f(t, x_k) + sum_j w_kj (x_j - x_k) in the coupled components, for states (..., nodes, components)."""
    return system.slope(t, x) + coupling(x, weights, coupled)


def simulate(
    system: System,
    weights: Array,
    steps: int,
    interval: float,
    *,
    starts: Array | None = None,
    coupled: int | Sequence[int] = (0,),
    begin: float = 0.0,
    washout: float = 0.0,
    process_noise: float = 0.0,
    tolerance: float = 1e-8,
    seed: int = 0,
) -> Array:
    """Integrate a network.

    Without process noise by scipy's adaptive Runge-Kutta methods (DOP853; RK45 where f has kinks). With it, the drift
    over half a substep, the noise of a whole one, and the drift over the other half (Strang): each drift by RK4; for
    additive noise the paths converge with order 1.

    Args:
        system: Of every node.
        weights: w_kj, from node j to node k, shape (nodes, nodes).
        steps: Samples that are kept.
        interval: Between two of them.
        starts: Shape (nodes, components); by default drawn around the system's own place.
        coupled: Components that couple, each into itself.
        begin: Time of the start, for driven systems.
        washout: Time that is integrated before the first sample; counted in `begin` as well.
        process_noise: Deviation of white noise that drives every component, per square root of time.
        tolerance: Relative and absolute, of the solver.
        seed: Of starts and process noise.

    Returns:
        Shape (steps, nodes, components); the first sample is at `begin + washout`.

    Raises:
        UserError: Shapes or numbers are out of range, or the states leave every bound.
    """
    check_whole(1, steps=steps)
    check_number(washout=washout, process_noise=process_noise)
    check_number(interval=interval, tolerance=tolerance, above=True)
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not np.isfinite(weights).all():
        raise UserError(f"weights must be finite numbers of shape (nodes, nodes), got shape {weights.shape}")
    nodes, random = len(weights), np.random.default_rng(seed)
    if starts is None:
        starts = np.asarray(system.place) + system.spread * random.standard_normal((nodes, system.components))
    starts = np.asarray(starts, np.float64)
    if starts.shape != (nodes, system.components):
        raise UserError(f"starts must have shape {(nodes, system.components)}, got {starts.shape}")
    coupled = checked_components(coupled, system.components)
    first = begin + washout
    times = first + interval * np.arange(steps)
    if process_noise:
        found = _noisy(
            lambda t, x: network_slope(system, weights, coupled, t, x),
            starts,
            np.concatenate(([begin], times)),
            step=interval / 10,
            noise=process_noise,
            random=random,
        )
    else:

        def within(_t: float, s: Array) -> float:
            return FAR - float(np.abs(s).max())

        within.terminal = True  # type: ignore[attr-defined]  # what runs away takes ever smaller steps
        solved = solve_ivp(
            lambda t, s: network_slope(system, weights, coupled, t, s.reshape(nodes, -1)).ravel(),
            (begin, max(times[-1], begin + 1e-12)),
            starts.ravel(),
            system.method,
            times,
            rtol=tolerance,
            atol=tolerance,
            events=within,
        )
        found = solved.y.T.reshape(-1, nodes, system.components)
    if len(found) < steps or not np.isfinite(found).all():
        raise UserError("the network leaves every bound: weaken the coupling, or start nearer to the attractor")
    return found


def _noisy(
    slope: Callable[[float, Array], Array],
    x: Array,
    times: Array,
    *,
    step: float,
    noise: float,
    random: np.random.Generator,
) -> Array:
    """States at all times but the first, at which x is the state; in steps of about `step`."""
    found = []
    for t, until in pairwise(times):
        count = round((until - t) / step)
        h = (until - t) / max(count, 1)
        for number in range(count):
            x = rk4_step(slope, t + h * number, x, h / 2)
            x = x + noise * np.sqrt(h) * random.standard_normal(x.shape)
            x = rk4_step(slope, t + h * (number + 0.5), x, h / 2)
        found.append(x)
    return np.stack(found)


def rk4_step(slope: Callable[[float, Array], Array], t: float, x: Array, h: float) -> Array:
    """The states a step h later, by Runge and Kutta's scheme of order 4."""
    k1 = slope(t, x)
    k2 = slope(t + h / 2, x + h / 2 * k1)
    k3 = slope(t + h / 2, x + h / 2 * k2)
    k4 = slope(t + h, x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def observe(series: Array, noise: float, *, seed: int = 0) -> Array:
    """Add white noise, in shares of each component's deviation over time and nodes.

    Args:
        series: Shape (..., nodes, components).
        noise: Share, such as 0.01.
        seed: Of the draws.
    """
    check_number(noise=noise)
    size = noise * series.std(tuple(range(series.ndim - 1)))
    return series + size * np.random.default_rng(seed).standard_normal(series.shape)
