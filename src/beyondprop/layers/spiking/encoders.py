"""From numbers to spike times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError


class _Encoder(nn.Module):
    """Values between `low` and `high`, scaled to levels of 0 to 1; subclasses make spike times of levels."""

    low: Tensor
    high: Tensor

    def __init__(self, low: float | Sequence[float] | Tensor, high: float | Sequence[float] | Tensor) -> None:
        super().__init__()
        ends = torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
        if not bool((ends[0] < ends[1]).all()):
            raise UserError("an encoder's low must be below its high, for every feature")
        self.register_buffer("low", ends[0], persistent=False)
        self.register_buffer("high", ends[1], persistent=False)

    def levels(self, x: Tensor) -> Tensor:
        """Scale x to 0 at `low` and 1 at `high`, and no further; NaN stays, and an infinite number is none.

        Raises:
            UserError: x has no dimension beside the batch, or holds no numbers.
        """
        if x.ndim < 2 or x.dtype == torch.bool or x.is_complex():
            raise UserError(f"an encoder takes numbers of shape (batch, ...), got {x.dtype} of shape {tuple(x.shape)}")
        flat = x.flatten(1)
        levels = ((flat - self.low) / (self.high - self.low)).clamp(0, 1)
        return levels.add_(flat * 0)  # 0 times infinity is NaN


class LatencyEncoder(_Encoder):
    """One spike for each number, the earlier the larger it is: time to first spike.

        linear:       t = end - (end - start) level
        logarithmic:  t = start + (end - start) ln(level) / ln(silent), level > silent

    Args:
        end: Time of the latest spike.
        start: Time of the earliest spike.
        low: Values from here down are level 0; a number, or one for each feature.
        high: Values from here up are level 1.
        silent: Levels up to this one give no spike; below 0 all spike.
        curve: How time follows from the level.
        bias: Time of one further input that always spikes, or None.
        jitter: Standard deviation of normal noise on the times of the others, in training mode: against overfitting.
        dropout: Probability that a spike of the others is left out, in training mode, for the same end.

    Raises:
        UserError: An argument is out of range.

    >>> LatencyEncoder(2.0)(torch.tensor([[0.0, 0.5, 1.0]]))[0, :, 0]
    tensor([inf, 1., 0.])
    """

    def __init__(
        self,
        end: float,
        *,
        start: float = 0.0,
        low: float | Sequence[float] | Tensor = 0.0,
        high: float | Sequence[float] | Tensor = 1.0,
        silent: float = 0.0,
        curve: Literal["linear", "logarithmic"] = "linear",
        bias: float | None = None,
        jitter: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(low, high)
        check_number(jitter=jitter)
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must be a probability below 1, got {dropout}")
        if not (math.isfinite(start) and math.isfinite(end) and start < end):
            raise UserError(f"the latest spike must come after the earliest, got start {start} and end {end}")
        if curve not in ("linear", "logarithmic") or (curve == "logarithmic" and not 0 < silent < 1):
            raise UserError(f"curve must be linear, or logarithmic with silent in 0..1, got {curve!r} and {silent}")
        self.start, self.end, self.silent, self.curve, self.bias = start, end, silent, curve, bias
        self.jitter, self.dropout = jitter, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return spike times of shape (batch, features (+ 1 with a bias), 1)."""
        level = self.levels(x)
        if self.curve == "linear":
            times = self.end - (self.end - self.start) * level
        else:
            times = self.start + (self.end - self.start) * level.clamp(min=self.silent).log() / math.log(self.silent)
        if self.training and self.jitter:
            times = times + self.jitter * torch.randn_like(times)
        absent = level <= self.silent
        if self.training and self.dropout:
            absent = absent | (torch.rand_like(level) < self.dropout)
        times = torch.where(absent, math.inf, times)
        if self.bias is not None:
            times = torch.cat([times, times.new_full((len(times), 1), self.bias)], dim=1)
        return times[..., None]


class PoissonEncoder(_Encoder):
    """Spikes at random moments, the more the larger a number is: a rate code.

        intervals ~ Exp(rate · level)

    Args:
        window: Time during which inputs spike.
        rate: Spikes in a unit of time at level 1.
        spikes: Most spikes of an input.
        low: Values from here down never spike.
        high: Values from here up are level 1.

    Raises:
        UserError: An argument is out of range.

    >>> PoissonEncoder(10.0, rate=2.0, spikes=30)(torch.tensor([[0.0, 1.0]])).shape
    torch.Size([1, 2, 30])
    """

    def __init__(
        self,
        window: float,
        *,
        rate: float = 1.0,
        spikes: int = 10,
        low: float | Sequence[float] | Tensor = 0.0,
        high: float | Sequence[float] | Tensor = 1.0,
    ) -> None:
        super().__init__(low, high)
        check_number(window=window, rate=rate, above=True)
        check_whole(1, spikes=spikes)
        self.window, self.rate, self.spikes = window, rate, spikes

    def forward(self, x: Tensor) -> Tensor:
        """Return spike times of shape (batch, features, spikes), drawn anew in every call."""
        level = self.levels(x)[..., None]
        draws = level.new_empty(*level.shape[:2], self.spikes).exponential_()
        times = draws.cumsum(2) / (self.rate * level)
        return torch.where(times > self.window, math.inf, times)


class PopulationEncoder(_Encoder):
    """Several neurons for each number, with Gaussian receptive fields, as Bohte, Kok and La Poutré (2002) have them.

        level_k = exp(-(x - c_k)² / (2 σ²)),    t = window (1 - level_k)

    Args:
        neurons: For each number, at least 2; their centres lie evenly from `low` to `high`.
        window: Time of the latest spike.
        width: σ in distances of two centres.
        silent: Neurons whose level is not above this do not spike.
        low: Of the numbers.
        high: Of the numbers.

    Raises:
        UserError: An argument is out of range.

    >>> PopulationEncoder(3, 2.0)(torch.tensor([[0.5]]))[0, 1, 0]
    tensor(0.)
    """

    centres: Tensor

    def __init__(
        self,
        neurons: int,
        window: float,
        *,
        width: float = 0.7,
        silent: float = 0.1,
        low: float | Sequence[float] | Tensor = 0.0,
        high: float | Sequence[float] | Tensor = 1.0,
    ) -> None:
        super().__init__(low, high)
        check_whole(2, neurons=neurons)
        check_number(window=window, width=width, above=True)
        self.window, self.width, self.silent = window, width / (neurons - 1), silent
        self.register_buffer("centres", torch.linspace(0, 1, neurons), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return spike times of shape (batch, features · neurons, 1)."""
        distance = self.levels(x)[..., None] - self.centres
        level = torch.exp(-0.5 * (distance / self.width) ** 2).flatten(1)
        return torch.where(level <= self.silent, math.inf, self.window * (1 - level))[..., None]
