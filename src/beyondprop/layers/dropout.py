"""Dropout that draws its mask several times faster than torch's on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 1 << 16  # a decision takes 16 random bits


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` with a cheaper mask on CPU: four decisions from each 64-bit random number.

    torch draws one Bernoulli variable an element, in one thread, which took a quarter of a NoProp step. Here the
    probability is rounded to a multiple of 2^-16 and the scale follows it, so that the mean is kept.
    Elsewhere (other devices, tensors that are not dense in memory, p of 0 or 1) it is torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        cut = round(self.p * _LEVELS)
        dense = input.is_contiguous() or input.is_contiguous(memory_format=torch.channels_last)
        if not self.training or input.device.type != "cpu" or not dense or not 0 < cut < _LEVELS:
            return F.dropout(input, self.p, self.training)
        return input * _mask(input, cut)


def _mask(x: Tensor, cut: int) -> Tensor:
    """Zeros and scales, of x's shape, type and place in memory."""
    count = x.numel()
    # From the lowest int64 on, all 64 bits are random; without bounds random_ leaves the sign bit 0.
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[:count] >= cut - _LEVELS // 2
    # Multiplying by a mask of x's own type is ten times faster here than masked_fill by a boolean one.
    return kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - cut)).as_strided(x.shape, x.stride())
