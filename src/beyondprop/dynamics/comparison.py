"""An inferred network beside the truth: free runs from equally noisy starts, and the local model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from beyondprop.dynamics.scores import valid_steps
from beyondprop.dynamics.series import NetworkSeries
from beyondprop.dynamics.simulation import network_slope, rk4_step

Array = NDArray[np.float64]
Slope = Callable[[float, Array], Array]


def free_run(
    slope: Slope, starts: Array, steps: int, interval: float, *, begin: float = 0.0, substeps: int = 4
) -> Array:
    """Integrate by RK4 from many starts side by side.

    Args:
        slope: dx/dt from t and states (starts, nodes, components).
        starts: Shape (starts, nodes, components).
        steps: Samples after the start.
        interval: Between two samples.
        begin: Time of all starts.
        substeps: Of an interval.

    Returns:
        Shape (starts, steps + 1, nodes, components); what leaves every bound is infinite or NaN.
    """
    h, x, found = interval / substeps, starts, [starts]
    with np.errstate(all="ignore"):
        for step in range(steps * substeps):
            x = rk4_step(slope, begin + h * step, x, h)
            if step % substeps == substeps - 1:
                found.append(x)
    return np.stack(found, axis=1)


def noisy_starts(
    series: NetworkSeries, interval: float, noise: float, *, count: int, horizon: int, seed: int = 0
) -> tuple[Array, Array]:
    """Starts on a test series with noise, at whole periods of the drive, and what truly follows.

    Args:
        series: With its clean states.
        interval: Between two samples.
        noise: In shares of each component's deviation.
        count: Of starts, evenly spaced.
        horizon: Steps that follow.
        seed: Of the noise.

    Returns:
        Starts, shape (count, nodes, components); the truth, shape (count, horizon + 1, nodes, components).
    """
    assert series.clean is not None
    assert series.system is not None
    scale = series.clean.std((0, 1))
    truth = evenly_spaced(series.clean, count, horizon, interval, series.system.period)
    random = np.random.default_rng(seed)
    return truth[:, 0] + noise * scale * random.standard_normal(truth[:, 0].shape), truth


def evenly_spaced(series: Array, count: int, horizon: int, interval: float, period: float) -> Array:
    """Pieces of a series for free runs, evenly spaced, each at a whole period of the drive.

    Args:
        series: Shape (time, nodes, components), of more than `horizon` samples.
        count: Pieces, at most.
        horizon: Steps of each after its first sample.
        interval: Between two samples.
        period: Of the drive, 0 for none.

    Returns:
        Shape (pieces, horizon + 1, nodes, components).
    """
    whole = round(period / interval) if period else 1
    firsts = np.unique(np.linspace(0, len(series) - 1 - horizon, count).astype(int) // whole * whole)
    return np.stack([series[first : first + horizon + 1] for first in firsts])


def valid_time(run: Array, truth: Array, scale: Array, interval: float) -> float:
    """Mean time over which free runs stay with the truth, at most their own."""
    valid = np.minimum(valid_steps(run, truth, scale), run.shape[1] - 1)  # the start is no step
    return float(valid.mean() * interval)


def true_run(series: NetworkSeries, starts: Array, steps: int, interval: float, coupled: tuple[int, ...]) -> Array:
    """The true network from these starts, at the time of the series' first sample."""
    system, weights = series.system, series.weights
    assert system is not None
    assert weights is not None
    return free_run(
        lambda t, x: network_slope(system, weights, coupled, t, x), starts, steps, interval, begin=series.begin
    )
