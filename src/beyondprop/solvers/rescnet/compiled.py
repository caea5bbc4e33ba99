"""Rectified and pooled responses in one go, compiled by Numba: by torch they are read and written eight times."""

# mypy: ignore-errors
# ruff: noqa: PLR0917
from __future__ import annotations

import numba
import numpy as np
from numba import types
from numba.extending import overload

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def _wide(number):
    """A bfloat16, given as its 16 bits, in float32; other numbers as they are."""


@overload(_wide, inline="always")
def _widen(number):
    if isinstance(number, types.Integer):
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


@numba.njit(inline="always", **OPTIONS)
def _add(found, scale, shift, offset, positive, negative):
    for channel in range(len(shift)):
        response = _wide(found[channel]) * scale - shift[channel]
        above, below = response - offset, -response - offset
        positive[channel] += np.float32(0) if above < 0 else above  # NaN is not below 0: it goes through
        negative[channel] += np.float32(0) if below < 0 else below


@numba.njit(**OPTIONS)
def pool(found, scale, shift, offset, rows, columns, features, first, last):
    """Means of both rectified sides over regions, of the samples from `first` to `last`.

    Args:
        found: Products with filters, float32 or the bits of bfloat16, shape (batch, height, width, F).
        scale: What each patch's are multiplied by, float32, shape (batch, height, width).
        shift: What is taken off each filter's, float32, shape (F,).
        offset: Of the rectification, float32.
        rows: Where regions begin and end, shape (grid, 2).
        columns: Likewise.
        features: Written: float32, shape (batch, 2, F, grid, grid).
        first: Sample.
        last: One behind the last sample.
    """
    sides = np.empty((2, len(shift)), np.float32)
    for sample in range(first, last):
        for i in range(len(rows)):
            for j in range(len(columns)):
                sides[:] = 0
                for y in range(rows[i, 0], rows[i, 1]):
                    for x in range(columns[j, 0], columns[j, 1]):
                        _add(found[sample, y, x], scale[sample, y, x], shift, offset, sides[0], sides[1])
                count = np.float32((rows[i, 1] - rows[i, 0]) * (columns[j, 1] - columns[j, 0]))
                features[sample, :, :, i, j] = sides / count
