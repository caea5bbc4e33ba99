"""From the maps of a layer to the features of its classifier: post-processing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from beyondprop.compiled import by_threads, compiled

Kind = Literal["first", "second", "histogram"]
KINDS = ("first", "second", "histogram")
BITS = 8  # of a code, as in PCANet
LOOPS = "beyondprop.solvers.rescnet.compiled"


def rectified(responses: Tensor, offset: float) -> Tensor:
    """Both sides of the responses beyond an offset, as twice as many channels that are never negative."""
    return torch.cat([F.relu(responses - offset), F.relu(-responses - offset)], dim=1)


def features_of(responses: Tensor, kind: Kind, grid: int, offset: float) -> Tensor:
    r"""Pool the responses of a layer's filters over a grid of regions.

    first: means of the rectified responses, 2F numbers a region.
    second: √ of the means of all products of two of them, F(2F + 1) numbers a region (second-order pooling with a
    signed root; no product is negative).
    histogram: PCANet's. Signs of eight responses are a number of 8 bits; how often each comes, 256 numbers for every
    eight filters a region.

    Args:
        responses: Shape (batch, F, height, width).
        kind: As above.
        grid: Regions along each side.
        offset: Of `rectified`.

    Returns:
        Shape (batch, D).
    """
    if kind == "first":
        sides = ((responses - offset).relu_(), (responses + offset).clamp_(max=0))  # in place: new memory is what costs
        return torch.cat([_means(sides[0], grid), -_means(sides[1], grid)], dim=1).flatten(1)
    if kind == "histogram":
        return block_histograms(binary_codes(responses), grid)
    maps = rectified(responses, offset)
    upper = torch.triu_indices(maps.shape[1], maps.shape[1], device=maps.device)
    found = []
    for rows in maps.tensor_split(grid, dim=2):
        for region in rows.tensor_split(grid, dim=3):
            flat = region.flatten(2)
            found.append((flat @ flat.mT / flat.shape[2])[:, upper[0], upper[1]].sqrt())
    return torch.cat(found, dim=1)


def can_pool(maps: Tensor) -> bool:
    """Whether `pooled_responses` will do: on CPUs, in float32 or bfloat16, with Numba, where no gradient is wanted."""
    known = maps.device.type == "cpu" and maps.dtype in (torch.float32, torch.bfloat16)
    return known and not (torch.is_grad_enabled() and maps.requires_grad) and compiled(LOOPS) is not None


def pooled_responses(found: Tensor, scale: Tensor | None, shift: Tensor, grid: int, offset: float) -> Tensor:
    """`features_of` with `"first"`, of responses that are never written down: only what they are made from.

    Args:
        found: Products with filters, shape (batch, F, height, width).
        scale: What each patch's are multiplied by, shape (batch, height, width); None for 1.
        shift: What is taken off each filter's then, shape (F,).
        grid: Regions along each side.
        offset: Of the rectification.

    Returns:
        Float32, shape (batch, D).
    """
    rows, columns = (
        np.array([[place * side // grid, -(-(place + 1) * side // grid)] for place in range(grid)])
        for side in found.shape[2:]
    )  # as adaptive pooling has them
    wide: Any = {"dtype": torch.float32, "device": found.device}
    features = torch.empty(len(found), 2, found.shape[1], grid, grid, **wide)
    scale = torch.ones(1, 1, 1, **wide).expand(len(found), *found.shape[2:]) if scale is None else scale.to(**wide)
    last = found.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    last = last.view(torch.uint16) if found.dtype == torch.bfloat16 else last
    arrays = [tensor.detach().numpy() for tensor in (last, scale.contiguous(), shift.to(**wide))]
    arguments = (*arrays, np.float32(offset), rows, columns, features.numpy())
    by_threads(lambda _part, first, end: compiled(LOOPS).pool(*arguments, first, end), len(found))
    return features.flatten(1)


def _means(maps: Tensor, grid: int) -> Tensor:
    """Means over a grid of regions; where all are of one size, by what is twice as fast."""
    height, width = maps.shape[2:]
    if height % grid or width % grid:
        return F.adaptive_avg_pool2d(maps, grid)
    return F.avg_pool2d(maps, (height // grid, width // grid))


def feature_count(kind: Kind, filters: int, grid: int) -> int:
    """D of `features_of`."""
    a_region = {"first": 2 * filters, "second": filters * (2 * filters + 1), "histogram": filters // BITS * 2**BITS}
    return a_region[kind] * grid**2


def binary_codes(responses: Tensor) -> Tensor:
    """Signs of eight responses at a time as a number of 8 bits, the first its lowest.

    Args:
        responses: Shape (batch, F, height, width), F divisible by 8.

    Returns:
        uint8, shape (batch, F / 8, height, width).
    """
    bits = (responses > 0).unflatten(1, (-1, BITS)).to(torch.uint8)
    weights = 2 ** torch.arange(BITS, dtype=torch.uint8, device=responses.device)
    return (bits * weights.view(BITS, 1, 1)).sum(dim=2, dtype=torch.uint8)


def block_histograms(codes: Tensor, grid: int) -> Tensor:
    """Shares of the codes in a grid of regions that do not overlap, shape (batch, maps · grid² · 256)."""
    found = [
        _histograms(region.flatten(2))
        for rows in codes.tensor_split(grid, dim=2)
        for region in rows.tensor_split(grid, dim=3)
    ]
    return torch.cat(found, dim=1)


def sliding_histograms(codes: Tensor, size: int, stride: int, grids: tuple[int, ...] = ()) -> Tensor:
    """Shares of the codes in square blocks that may overlap.

    Args:
        codes: Shape (batch, maps, height, width).
        size: Side of a block.
        stride: From one block to the next.
        grids: Of a pyramid: the largest share among the blocks of each region of each grid. Without, all blocks.

    Returns:
        Shape (batch, maps · 256 · blocks), or as many times the pyramid's regions.
    """
    if codes.device.type == "cpu" and compiled(LOOPS) is not None:
        down, across = ((side - size) // stride + 1 for side in codes.shape[2:])
        places = sum(grid**2 for grid in grids) or down * across
        size_of_all = codes.shape[1] * 2**BITS * places
        shares = torch.empty(len(codes), size_of_all, dtype=torch.float32, device=codes.device)
        pyramid = np.array(grids, dtype=np.int64)
        arguments = (codes.contiguous().numpy(), size, stride, pyramid, shares.numpy())
        by_threads(lambda _part, first, end: compiled(LOOPS).histograms(*arguments, first, end), len(codes))
        return shares
    blocks = codes.unfold(2, size, stride).unfold(3, size, stride)  # (batch, maps, down, across, size, size)
    down, across = blocks.shape[2:4]
    flat = blocks.permute(0, 2, 3, 1, 4, 5).flatten(1, 3).flatten(2)
    shares = _histograms(flat).view(len(codes), down, across, -1)
    if not grids:
        return shares.flatten(1)
    shares = shares.permute(0, 3, 1, 2)
    return torch.cat([F.adaptive_max_pool2d(shares, grid).flatten(1) for grid in grids], dim=1)


def _histograms(codes: Tensor) -> Tensor:
    """Shares of each of 256 codes in the last dimension, shape (batch, maps · 256)."""
    found = torch.zeros(*codes.shape[:2], 2**BITS, device=codes.device)
    found.scatter_add_(2, codes.long(), torch.ones((), device=codes.device).expand(codes.shape))
    return found.flatten(1) / codes.shape[2]
