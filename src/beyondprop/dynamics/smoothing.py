"""Smoothing a series by local polynomials whose width is chosen by leaving samples out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import savgol_coeffs, savgol_filter

from beyondprop.checks import check_number
from beyondprop.errors import UserError

ORDER = 4  # of the polynomials
HALF_WIDTHS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)


class Smoothed(NamedTuple):
    """A smoothed series.

    Attributes:
        states: Of the series' shape.
        slopes: Their derivatives by time, of the same shape.
        half_widths: Samples on either side that a polynomial sees, for each component.
    """

    states: NDArray[np.float64]
    slopes: NDArray[np.float64]
    half_widths: tuple[int, ...]


def smooth(series: NDArray[np.floating], interval: float, half_widths: Sequence[int] = HALF_WIDTHS) -> Smoothed:
    """Smooth by local polynomials of fourth order (Savitzky and Golay 1964), one width for each component.

    The width is the one with the smallest squared error at samples that were left out of their own polynomial: the
    residual divided by one minus the sample's own weight, as for every linear smoother.

    Args:
        series: Shape (..., time, nodes, components).
        interval: Time between two samples.
        half_widths: To choose from; those that the series is too short for are passed over.

    Raises:
        UserError: The interval is not above 0, or the series has less than seven samples.
    """
    check_number(interval=interval, above=True)
    series = np.asarray(series, np.float64)
    fitting = [m for m in half_widths if 2 * m + 1 <= series.shape[-3] and 2 * m + 1 > ORDER + 1]
    if not fitting:
        raise UserError(f"a series must have at least 7 samples in time, not {series.shape[-3]}")
    states, slopes, chosen = np.empty_like(series), np.empty_like(series), []
    for c in range(series.shape[-1]):
        values, best = series[..., c], np.inf
        for m in fitting:
            found = savgol_filter(values, 2 * m + 1, ORDER, axis=-2)
            own = savgol_coeffs(2 * m + 1, ORDER)[m]
            inner = slice(m, values.shape[-2] - m)
            error = float(np.mean(((values - found)[..., inner, :] / (1 - own)) ** 2))
            if error < best:
                best, width, states[..., c] = error, m, found
        slopes[..., c] = savgol_filter(values, 2 * width + 1, ORDER, deriv=1, delta=interval, axis=-2)
        chosen.append(width)
    return Smoothed(states, slopes, tuple(chosen))


def central_differences(
    series: NDArray[np.floating], interval: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States without the first and last sample, and their slopes (x(t + h) - x(t - h)) / 2h.

    Args:
        series: Shape (..., time, nodes, components), at least three samples in time.
        interval: h.
    """
    values: NDArray[np.float64] = np.asarray(series, np.float64)
    return values[..., 1:-1, :, :], np.asarray(
        (values[..., 2:, :, :] - values[..., :-2, :, :]) / (2 * interval), np.float64
    )
