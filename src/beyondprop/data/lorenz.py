"""The Lorenz system, a series of pure quaternions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from beyondprop.data.sequences import windows
from beyondprop.data.sets import Splits, whole


def lorenz_series(
    steps: int, *, series: int = 1, interval: float = 0.05, seed: int = 0, substeps: int = 10, washout: int = 200
) -> Tensor:
    """Integrate dx/dt = 10 (y - x), dy/dt = x (28 - z) - y, dz/dt = x y - 8/3 z.

    Fourth-order Runge-Kutta from places drawn around (1, 1, 25), each coordinate by a normal distribution.

    Args:
        steps: Samples of each series.
        series: Series from places of their own.
        interval: Time units between two samples.
        seed: Of the places.
        substeps: Of an interval.
        washout: Samples that are left out at the beginning.

    Returns:
        Float32, shape (series, steps, 3).

    Raises:
        DataError: A number is too small.
    """
    steps, series, substeps = (
        whole(value, name, at_least=1) for value, name in ((steps, "steps"), (series, "series"), (substeps, "substeps"))
    )
    washout = whole(washout, "washout", at_least=0)
    place = np.array([1.0, 1.0, 25.0]) + np.random.default_rng(seed).standard_normal((series, 3))
    h, found = interval / substeps, np.empty((series, steps, 3))

    def slope(p: np.ndarray) -> np.ndarray:
        x, y, z = p.T
        return np.stack((10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z), 1)

    for step in range(washout + steps):
        for _ in range(substeps):
            k1 = slope(place)
            k2 = slope(place + h / 2 * k1)
            k3 = slope(place + h / 2 * k2)
            k4 = slope(place + h * k3)
            place = place + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if step >= washout:
            found[:, step - washout] = place
    return torch.from_numpy(found).float()


def lorenz(*, shift: int = 10, steps: int = 5000, window: int = 50, series: int = 4, seed: int = 0) -> Splits:
    """A forecast of the Lorenz system, cut into windows.

    Inputs are pure quaternions (0, x, y, z), targets the three coordinates `shift` steps ahead. Coordinates are scaled
    by one number and shifted by three, those of the training series, so that directions in space are kept.

    Args:
        shift: Steps of 0.05 time units, at least 1.
        steps: Of each series that are targets, at least `window`.
        window: Length of the sequences, one behind the other; a rest is left out.
        series: Training series, and as many for testing.
        seed: Of where they begin.

    Raises:
        DataError: A number is too small.
    """
    shift, window = whole(shift, "shift", at_least=1), whole(window, "window", at_least=2)
    values = lorenz_series(steps + shift, series=2 * series, seed=seed)
    values = values - values[:series].mean((0, 1))
    values = values / values[:series].std()
    inputs, targets = torch.nn.functional.pad(values[:, :-shift], (1, 0)), values[:, shift:]
    return Splits(
        *(windows(inputs[rows], targets[rows], window, "lorenz") for rows in (slice(series), slice(series, None)))
    )
