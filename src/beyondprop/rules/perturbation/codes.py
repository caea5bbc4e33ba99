"""How perturbations of many parameters share time: the codes of multiplexed gradient descent."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError

Kind = Literal["random", "sequential", "walsh", "sinusoidal"]
KINDS = ("random", "sequential", "walsh", "sinusoidal")


class PerturbationCode(nn.Module):
    r"""Perturbations θ̃(t) of P parameters (McCaughan et al., arXiv 2303.03986, Section II), for t = 0, 1, 2, ...

    All codes have ⟨θ̃_i θ̃_j⟩ = δ_ij norm² / P over time, so that a cost's change times θ̃ is on average norm²/P times its
    gradient, whatever the code:

    - `"sequential"`: one parameter at a time, by `norm`, in an order drawn once; exact after P slots;
    - `"random"`: every parameter by ±norm/√P, signs drawn anew for each slot;
    - `"walsh"`: ±norm/√P by rows of a Hadamard matrix of the next power of two, so that no two parameters are moved
      alike over a pass through all its columns; signs are turned round after each pass;
    - `"sinusoidal"`: norm √(2/P) sin(2π f_i t + φ_i), frequencies evenly spread, dealt out at random; t counts slots.

    Args:
        kind: Which.
        size: P.
        norm: Length of θ̃ (of the sinusoids: its root mean square).
        tau_p: Steps for which a slot's perturbation is held.
        frequencies: Lowest and highest, in cycles a slot, of the sinusoids.

    Raises:
        UserError: An argument is out of range.
    """

    time: Tensor
    held: Tensor
    places: Tensor
    phases: Tensor

    def __init__(
        self,
        kind: Kind,
        size: int,
        *,
        norm: float = 0.1,
        tau_p: int = 1,
        frequencies: tuple[float, float] = (0.1, 0.4),
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"code must be one of {', '.join(KINDS)}, got {kind!r}")
        check_number(norm=norm, above=True)
        check_whole(1, tau_p=tau_p)
        low, high = frequencies
        if not 0 < low < high < 0.5:  # at 0.5 a sinusoid's power would be its phase's
            raise UserError(f"frequencies must rise within 0..0.5 cycles a step, and stay below 0.5, got {frequencies}")
        self.kind, self.size, self.norm, self.tau_p = kind, size, norm, tau_p
        self.register_buffer("time", torch.zeros((), dtype=torch.long))
        self.period = {"sequential": size, "walsh": 1 << max(size - 1, 0).bit_length()}.get(kind, 0)
        if kind == "random":  # the slot that a call ends in may go on in the next one
            self.register_buffer("held", torch.zeros(size))
        elif kind in ("sequential", "walsh"):
            self.register_buffer("places", torch.randperm(self.period)[:size])
        else:
            self.register_buffer("places", torch.linspace(low, high, size)[torch.randperm(size)])
            self.register_buffer("phases", 2 * math.pi * torch.rand(size))

    def forward(self, count: int) -> Tensor:
        """Return the perturbations of the next steps, shape (count, P)."""
        start = int(self.time)
        times = torch.arange(start, start + count, device=self.time.device)
        self.time += count
        slots = times // self.tau_p
        if self.kind == "random":
            return self._random(slots, start)
        if self.kind == "sinusoidal":
            turns = (self.places.double() * slots[:, None]) % 1  # float32 would lose the phase in a few million steps
            angles = (2 * math.pi * turns).to(self.phases.dtype) + self.phases
            return self.norm * math.sqrt(2 / self.size) * angles.sin()
        passes, place = slots // self.period, slots % self.period
        if self.kind == "sequential":
            return self.norm * (place[:, None] == self.places).to(torch.get_default_dtype())
        bits = (self.period - 1).bit_length()
        small = torch.int32 if bits < 32 else torch.int64  # half the time of int64
        odd = _parity(self.places.to(small) & place[:, None].to(small), bits)
        signs = 1 - 2 * (odd ^ (passes[:, None].to(small) & 1))
        return self.norm / math.sqrt(self.size) * signs.to(torch.get_default_dtype())

    def _random(self, slots: Tensor, start: int) -> Tensor:
        goes_on = int(start % self.tau_p != 0)
        number = slots - slots[0] - goes_on  # of the slots that begin here
        begun = (start + len(slots) - 1) // self.tau_p - start // self.tau_p + 1 - goes_on
        fresh = torch.randint(2, (begun, self.size), device=self.held.device, dtype=torch.int8)
        drawn = (2 * fresh - 1).to(self.held.dtype) * (self.norm / math.sqrt(self.size))
        rows = torch.cat([self.held[None], drawn])[number + 1]
        self.held.copy_(rows[-1])
        return rows


def _parity(x: Tensor, bits: int) -> Tensor:
    """Whether an odd number of bits is set.

    Args:
        x: Whole numbers; they are lost.
        bits: Of which the numbers have no more.
    """
    for shift in (32, 16, 8, 4, 2, 1):
        if shift < bits:
            x ^= x >> shift
    return x.bitwise_and_(1)
