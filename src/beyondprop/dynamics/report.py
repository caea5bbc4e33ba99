"""Figures of an inferred network beside the truth and beside closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from beyondprop.data import Splits
from beyondprop.dynamics.closed_forms import closed_forms
from beyondprop.dynamics.comparison import Slope, free_run, noisy_starts, true_run, valid_time
from beyondprop.dynamics.inference import NetworkInference
from beyondprop.dynamics.regression import cubics, polynomials
from beyondprop.dynamics.scores import edge_auc, weight_rmse
from beyondprop.dynamics.series import NetworkSeries
from beyondprop.dynamics.systems import Chua

Array = NDArray[np.float64]


class Asked(Protocol):
    """What a report needs of a recipe's settings."""

    @property
    def interval(self) -> float: ...  # noqa: D102
    @property
    def noise(self) -> float: ...  # noqa: D102
    @property
    def start_noise(self) -> float: ...  # noqa: D102
    @property
    def starts(self) -> int: ...  # noqa: D102
    @property
    def horizon(self) -> int: ...  # noqa: D102
    @property
    def threshold(self) -> float: ...  # noqa: D102


def report(inference: NetworkInference, asked: Asked, splits: Splits) -> dict[str, float]:
    """Measure an inferred network, and closed forms on the same series.

    Args:
        inference: Fitted.
        asked: Interval, noise, and how free runs are made.
        splits: As `network_series` makes them.

    Returns:
        `edge_auc`, by the size of the weights, and `probability_auc`; `weight_rmse`; `local_rmse`, of f on the
        attractor of one node alone, in units of the true slopes' deviation; `valid_time` and `true_valid_time` of free
        runs from the same noisy starts, and `valid_time_ratio`. The same with the prefixes `least_squares_` and
        `sparse_regression_`, from central differences, and with `smoothed_` before those, from the smoothed series.
    """
    train, test = splits
    assert isinstance(train, NetworkSeries)
    assert isinstance(test, NetworkSeries)
    assert train.weights is not None
    truth, true, own = free_runs(inference, asked, test)
    starts, scale = true[:, 0], truth.std((0, 1, 2))
    reference = valid_time(true, truth, scale, asked.interval)
    found = {
        "edge_auc": edge_auc(inference.weights.abs().cpu().numpy(), train.weights),
        "probability_auc": edge_auc(inference.probability.cpu().numpy(), train.weights),
        "weight_rmse": weight_rmse(inference.weights.double().cpu().numpy(), train.weights),
        "local_rmse": _local_rmse(train, asked.interval, lambda t, x: _slope(inference, t, x)),
        "valid_time": valid_time(own, truth, scale, asked.interval),
        "true_valid_time": reference,
    }
    found["valid_time_ratio"] = found["valid_time"] / reference
    flat = torch.cat((train.images[0], train.labels[0, -1:]))
    forms = closed_forms(
        flat.view(len(flat), inference.nodes, inference.components).cpu().numpy(),
        asked.interval,
        coupled=inference.coupled,
        library=polynomials if type(train.system).__name__ == "Lorenz" else cubics,
        period=inference.period,
        begin=train.begin,
        threshold=asked.threshold,
    )
    for name, form in forms.items():
        run = free_run(form.slope, starts, asked.horizon, asked.interval, begin=test.begin, substeps=1)
        found |= {
            f"{name}_edge_auc": edge_auc(np.abs(form.weights), train.weights),
            f"{name}_weight_rmse": weight_rmse(form.weights, train.weights),
            f"{name}_local_rmse": _local_rmse(train, asked.interval, form.alone),
            f"{name}_valid_time_ratio": valid_time(run, truth, scale, asked.interval) / reference,
        }
    return found


class Runs(NamedTuple):
    """Free runs from the same noisy starts, all of shape (starts, time, nodes, components).

    Attributes:
        truth: What truly follows the starts without noise.
        true: The true network.
        own: The inferred one.
    """

    truth: Array
    true: Array
    own: Array


def free_runs(inference: NetworkInference, asked: Asked, test: NetworkSeries) -> Runs:
    """Run both networks from starts on a test series."""
    starts, truth = noisy_starts(
        test, asked.interval, max(asked.noise, asked.start_noise), count=asked.starts, horizon=asked.horizon
    )
    true = true_run(test, starts, asked.horizon, asked.interval, inference.coupled)
    return Runs(truth, true, inference.predict(starts, asked.horizon).double().cpu().numpy())


def _slope(inference: NetworkInference, t: float, x: Array) -> Array:
    given = torch.from_numpy(x).to(inference.weights)
    if inference.period:
        phase = 2 * math.pi * t / inference.period
        drive = torch.tensor([math.cos(phase), math.sin(phase)]).to(given)
        given = torch.cat((given, drive.expand(*given.shape[:-1], 2)), dim=-1)
    with torch.no_grad():
        return inference.local(given).double().cpu().numpy()


def _local_rmse(series: NetworkSeries, interval: float, slope: Slope) -> float:
    """Of f at states of a node alone, each at its phase of the drive; the true parameters are those of the first."""
    assert series.alone is not None
    assert series.system is not None
    period = round(series.system.period / interval)
    differences, sizes = [], []
    for first in range(0, period, max(1, period // 8)) if period else (0,):
        states, t = (series.alone[first::period] if period else series.alone), first * interval
        true = _true_slope(series, t, states)
        differences.append(slope(t, states[:, None])[:, 0] - true)
        sizes.append(true)
    error, true = np.concatenate(differences), np.concatenate(sizes)
    return float(np.sqrt(np.mean((error / true.std(0)) ** 2)))


def _true_slope(series: NetworkSeries, t: float, states: Array) -> Array:
    """Of identical nodes, or of the mean parameter."""
    system = series.system
    assert system is not None
    if isinstance(system, Chua):
        system = replace(system, a=float(np.mean(system.a)))
    return system.slope(t, states)
