"""Closed forms on a series: least squares and sparse regression, from raw and from smoothed slopes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beyondprop.checks import check_number
from beyondprop.dynamics.checked import checked_components, checked_series
from beyondprop.dynamics.coupling import coupling
from beyondprop.dynamics.regression import Library, Regression, least_squares, polynomials, sparse_regression
from beyondprop.dynamics.smoothing import central_differences, smooth

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClosedForm:
    """A network that was found by a closed form.

    Attributes:
        regression: Weights and coefficients.
        library: Of states alone.
        period: Of the drive, 0 for none: its cosine and sine stand behind the library.
        coupled: Components that couple.
    """

    regression: Regression
    library: Library
    period: float
    coupled: tuple[int, ...]

    @property
    def weights(self) -> Array:
        """w_kj, shape (nodes, nodes)."""
        return self.regression.weights

    def alone(self, t: float, x: Array) -> Array:
        """What a node does alone, from states (..., components)."""
        return _with_drive(self.library, self.period, x, t) @ self.regression.coefficients

    def slope(self, t: float, x: Array) -> Array:
        """dx/dt of the network, from states (..., nodes, components)."""
        return self.alone(t, x) + coupling(x, self.weights, self.coupled)


def closed_forms(
    series: NDArray[np.floating],
    interval: float,
    *,
    coupled: int | Sequence[int] = (0,),
    library: Library = polynomials,
    period: float = 0.0,
    begin: float = 0.0,
    threshold: float = 0.1,
) -> dict[str, ClosedForm]:
    """Find a network by what is usual: a library of functions that all nodes share, and least squares.

    Args:
        series: Shape (time, nodes, components).
        interval: Between two samples.
        coupled: Components that couple, each into itself.
        library: As `least_squares` takes it: `polynomials`, `cubics`, or one of your own.
        period: Of a drive that all nodes feel, 0 for none.
        begin: Time of the first sample, for its phase.
        threshold: Of sparse regression: smaller weights are set to zero.

    Returns:
        By the names `least_squares` and `sparse_regression`, from central differences; and the same with `smoothed_`
        before them, from slopes of the smoothed series.

    Raises:
        UserError: The series has another shape, or a component that couples is none of it.
        NonFiniteError: There is NaN or infinity in it.
    """
    series = checked_series(series)
    check_number(interval=interval, above=True)
    check_number(period=period, threshold=threshold)
    coupled = checked_components(coupled, series.shape[2])
    times: Array = np.asarray(begin + interval * np.arange(len(series))[:, None], np.float64)
    smoothed, found = smooth(series, interval), {}
    for prefix, when, states, slopes in (
        ("", times[1:-1], *central_differences(series, interval)),
        ("smoothed_", times, smoothed.states, smoothed.slopes),
    ):

        def at(x: Array, when: Array = when) -> Array:
            return _with_drive(library, period, x, when)

        plain = least_squares(states, slopes, coupled, at)
        sparse = sparse_regression(states, slopes, coupled, at, threshold=threshold)
        for name, regression in (("least_squares", plain), ("sparse_regression", sparse)):
            found[prefix + name] = ClosedForm(regression, library, period, coupled)
    return found


def _with_drive(library: Library, period: float, x: Array, t: float | Array) -> Array:
    found = library(x)
    if not period:
        return found
    phase = np.broadcast_to(2 * math.pi / period * np.asarray(t), x.shape[:-1])
    return np.concatenate((found, np.cos(phase)[..., None], np.sin(phase)[..., None]), axis=-1)
