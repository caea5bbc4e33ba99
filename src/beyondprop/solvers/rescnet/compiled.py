"""What is pooled, in one go by Numba: rectified responses, which torch reads and writes many times, and codes."""

# mypy: ignore-errors
# ruff: noqa: PLR0917
from __future__ import annotations

import numba
import numpy as np
from numba import types
from numba.extending import overload

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def _float(number):
    """A bfloat16, given as its 16 bits, in float32; other numbers as they are. Runs where Numba compiles nothing."""
    return np.uint32(number << 16).view(np.float32) if isinstance(number, np.integer) else number


@overload(_float, inline="always")
def _compiled_float(number):
    if isinstance(number, types.Integer):
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


@numba.njit(inline="always", **OPTIONS)
def _add(found, scale, shift, offset, positive, negative):
    for channel in range(len(shift)):
        response = _float(found[channel]) * scale - shift[channel]
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


@numba.njit(**OPTIONS)
def histograms(codes, size, stride, grids, shares, first, last):
    """Shares of codes in square blocks, or the largest among the blocks of each region of each grid.

    Args:
        codes: uint8, shape (batch, maps, height, width).
        size: Side of a block.
        stride: From one block to the next.
        grids: Of a pyramid, int64; none for the blocks themselves.
        shares: Written: float32, shape (batch, D), in the order of `sliding_histograms`.
        first: Sample.
        last: One behind the last sample.
    """
    maps = codes.shape[1]
    down, across = (codes.shape[2] - size) // stride + 1, (codes.shape[3] - size) // stride + 1
    unit = np.float32(size * size)
    counts, highest = np.empty((down, across, 256), np.float32), np.empty(256, np.float32)
    for sample in range(first, last):
        for number in range(maps):
            counts[:] = 0
            for i in range(down):
                for j in range(across):
                    for y in range(i * stride, i * stride + size):
                        for x in range(j * stride, j * stride + size):
                            counts[i, j, codes[sample, number, y, x]] += 1
                    if not len(grids):
                        place = ((i * across + j) * maps + number) * 256
                        shares[sample, place : place + 256] = counts[i, j] / unit
            begin = 0
            for grid in grids:
                regions = grid * grid
                for region in range(regions):
                    i, j = region // grid, region % grid
                    highest[:] = 0
                    for y in range(i * down // grid, -(-(i + 1) * down // grid)):
                        for x in range(j * across // grid, -(-(j + 1) * across // grid)):
                            highest[:] = np.maximum(highest, counts[y, x])
                    for code in range(256):
                        shares[sample, begin + (number * 256 + code) * regions + region] = highest[code] / unit
                begin += maps * 256 * regions
