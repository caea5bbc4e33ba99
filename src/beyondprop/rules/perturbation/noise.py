"""Noise for perturbations, drawn faster than torch draws it on a processor."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor


def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw independent numbers of N(0, 1).

    On a processor each is one of the 65,536 midpoints of equally likely parts of the normal distribution, scaled to the
    variance 1, which 16 random bits choose: a fraction of the cost of exact ones, and a direction need be no more than
    independent numbers of mean 0 and variance 1 for an estimate to be unbiased.

    Args:
        like: Of the shape, layout in memory, dtype and device that the noise is to have.
        generator: Of torch, on the processor, that seeds the numbers; by default the global one.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    if like.device.type != "cpu":
        own = torch.Generator(like.device).manual_seed(seed)
        return torch.empty_like(like).normal_(generator=own)
    bits = np.random.SFC64(seed).random_raw(like.numel() // 4 + 1).view(np.uint16)[: like.numel()]
    drawn = _quantiles(like.dtype).index_select(0, torch.from_numpy(bits.astype(np.int32)))
    return drawn.as_strided(like.shape, torch.empty_like(like, device="meta").stride())


@functools.cache
def _quantiles(dtype: torch.dtype) -> Tensor:
    """Midpoints of 65,536 equally likely parts of N(0, 1), of variance 1."""
    middle = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**15 - 1
    quantiles = math.sqrt(2) * torch.erfinv(middle)
    return (quantiles / quantiles.square().mean().sqrt()).to(dtype)
