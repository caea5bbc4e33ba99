"""NoProp-CT's signal-to-noise ratio as a learned function of time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError


class LearnedSchedule(nn.Module):
    r"""The learned noise schedule of NoProp-CT (arXiv 2503.24322, Section 2.2.2 and Appendix B).

        SNR(t) = exp(-γ(t)),   ᾱ_t = sigmoid(-γ(t)),   γ(t) = γ_0 + (γ_1 - γ_0)(1 - ḡ(t)),   0 <= t <= 1
        ḡ(t) = (g̃(t) - g̃(0)) / (g̃(1) - g̃(0)),   g̃ a network of two layers with positive weights

    So γ falls from γ_1 at t = 0 (noise) to γ_0 at t = 1 (clean). Both ends are learned, as is the way between them; the
    weights stay positive, and γ_1 above γ_0, as softplus of what the optimizer moves.

    Args:
        clean: γ_0 = γ(1) at the start; the paper gives none. -5.3 is ᾱ_1 = 0.995.
        noisy: γ_1 = γ(0) at the start.
        width: Hidden units of g̃. They start as sigmoids spread evenly over time, which makes g̃ nearly a straight line.

    Raises:
        UserError: noisy is not above clean, or width is below 1.

    >>> schedule = LearnedSchedule()
    >>> ends = schedule(torch.tensor([0.0, 1.0]))
    >>> [round(value, 1) for value in ends.tolist()]
    [6.0, -5.3]
    """

    def __init__(self, *, clean: float = -5.3, noisy: float = 6.0, width: int = 32) -> None:
        super().__init__()
        if noisy <= clean:
            raise UserError(f"gamma must fall from noise to clean: noisy ({noisy}) must be above clean ({clean})")
        if width < 1:
            raise UserError(f"the schedule's network needs a hidden unit at least, got width {width}")
        steepness = 6.0
        centres = torch.linspace(-0.2, 1.2, width) if width > 1 else torch.tensor([0.5])
        self.clean = nn.Parameter(torch.tensor(clean))
        self.span = nn.Parameter(torch.tensor(_softplus_inverse(noisy - clean)))
        self.slopes = nn.Parameter(torch.full((width,), _softplus_inverse(steepness)))
        self.offsets = nn.Parameter(-steepness * centres)
        self.weights = nn.Parameter(torch.full((width,), _softplus_inverse(1.0)))

    def forward(self, t: Tensor) -> Tensor:
        """γ(t), of the shape of t."""
        return self.gamma_and_slope(t)[0]

    def gamma_and_slope(self, t: Tensor, *, ends_learn: bool = True) -> tuple[Tensor, Tensor]:
        """γ(t) and its derivative γ'(t), which is negative; both of the shape of t.

        Args:
            t: Times in [0, 1].
            ends_learn: Whether gradients reach γ_0 and γ_1.
        """
        # Not under autocast: exp(-γ) weighs the loss.
        with torch.autocast(t.device.type, enabled=False):
            t = t.to(self.clean.dtype)
            slopes, weights = F.softplus(self.slopes), F.softplus(self.weights)
            clean, span = (end if ends_learn else end.detach() for end in (self.clean, F.softplus(self.span)))
            active = torch.sigmoid(t.unsqueeze(-1) * slopes + self.offsets)
            start, end = (torch.sigmoid(at * slopes + self.offsets) @ weights for at in (0.0, 1.0))
            risen = (active @ weights - start) / (end - start)
            steepness = (active * (1 - active)) @ (weights * slopes) / (end - start)
            return clean + span * (1 - risen), -span * steepness

    def times_at(self, gamma: Tensor, *, resolution: int = 1024) -> Tensor:
        """The times t at which γ(t) takes given values: the inverse, by interpolation in a table.

        Args:
            gamma: Values between γ_1 and γ_0, any shape.
            resolution: Entries of the table.
        """
        table = torch.linspace(0, 1, resolution, device=gamma.device, dtype=gamma.dtype)
        rising = -self(table).detach()
        wanted = -gamma.detach()
        right = torch.searchsorted(rising, wanted.contiguous()).clamp(1, resolution - 1)
        left = right - 1
        part = (wanted - rising[left]) / (rising[right] - rising[left])
        return torch.lerp(table[left], table[right], part.clamp(0, 1))


def _softplus_inverse(value: float) -> float:
    return value + math.log(-math.expm1(-value))
