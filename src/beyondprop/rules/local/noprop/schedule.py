"""How much of the label each step's variable holds, and the coefficients that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from beyondprop.errors import UserError


@dataclass(frozen=True)
class DiscreteSchedule:
    r"""Signal levels of NoProp's discrete-time diffusion (arXiv 2503.24322, Section 2.1 and Appendix A).

    Time runs from pure noise at t = 0 to the (nearly) clean label embedding at t = T:

        q(z_t | y) = N(sqrt(ᾱ_t) u_y, (1 - ᾱ_t) I),   ᾱ_0 < ᾱ_1 < ... < ᾱ_T                            (6)
        z_t = a_t û_t(z_{t-1}, x) + b_t z_{t-1} + sqrt(c_t) ε                                           (3)

    Lists indexed by t have an entry for each of t = 0..T; a step's own coefficients are asked for with t = 1..T.

    Args:
        alpha_bar: ᾱ_0 ... ᾱ_T, strictly increasing, in [0, 1); T is their number less one.

    Raises:
        UserError: alpha_bar is too short, decreasing (the reversed time axis), or leaves [0, 1).

    >>> schedule = cosine_schedule(10)
    >>> [round(value, 3) for value in schedule.alpha_bar[:3]]
    [0.0, 0.024, 0.094]
    >>> schedule.coefficients(1)[1]  # z_0 holds nothing of the label: its weight is 0
    0.0
    """

    alpha_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.alpha_bar) < 2:
            raise UserError("a schedule needs at least one step, so two values of alpha_bar")
        if not all(0 <= value < 1 for value in self.alpha_bar):
            raise UserError("alpha_bar must lie in [0, 1): at 1 the signal-to-noise ratio is infinite")
        if any(late <= early for early, late in pairwise(self.alpha_bar)):
            raise UserError("alpha_bar must increase: t = 0 is noise, t = T is clean")

    @property
    def steps(self) -> int:
        """T, the number of steps and of blocks."""
        return len(self.alpha_bar) - 1

    @cached_property
    def snr(self) -> tuple[float, ...]:
        """SNR(t) = ᾱ_t / (1 - ᾱ_t), for t = 0..T."""
        return tuple(value / (1 - value) for value in self.alpha_bar)

    def snr_increment(self, t: int) -> float:
        """SNR(t) - SNR(t-1): the weight of block t in the objective (8), for t = 1..T."""
        return self.snr[t] - self.snr[t - 1]

    def coefficients(self, t: int) -> tuple[float, float, float]:
        """The update's a_t, b_t, c_t of (7), for t = 1..T.

        With α_{t-1} = ᾱ_{t-1} / ᾱ_t they map q(z_{t-1} | y) exactly onto q(z_t | y) when û_t = u_y.
        """
        before, now = self.alpha_bar[t - 1], self.alpha_bar[t]
        alpha = before / now
        a = math.sqrt(now) * (1 - alpha) / (1 - before)
        b = math.sqrt(alpha) * (1 - now) / (1 - before)
        c = (1 - now) * (1 - alpha) / (1 - before)
        return a, b, c

    def prior_kl(self, squared_norm: float, dim: int) -> float:
        """KL(q(z_0 | y) || N(0, I)) in nats, in closed form; zero when ᾱ_0 = 0.

        Args:
            squared_norm: ||u_y||².
            dim: Dimension d of the embedding.
        """
        start = self.alpha_bar[0]
        return 0.5 * (start * squared_norm - dim * start - dim * math.log1p(-start))


def cosine_schedule(steps: int, *, offset: float = 0.008, highest: float = 0.995) -> DiscreteSchedule:
    """The cosine schedule of Nichol and Dhariwal (arXiv 2102.09672, eq. 17) on NoProp's time axis, clipped.

    The paper says "fixed cosine noise schedule" and no more. Unclipped, the last step's SNR increment is 250 times the
    one before it and would alone move a learned embedding; `highest` limits it. ᾱ_0 is exactly 0, so that z_0 is pure
    noise and the KL term vanishes.

    Args:
        steps: T, at least 1.
        offset: s, which keeps the first steps from being too small.
        highest: Largest ᾱ_T, below 1.

    Raises:
        UserError: steps is below 1, or so many steps are clipped that alpha_bar no longer increases.
    """
    if steps < 1:
        raise UserError(f"a schedule needs at least one step, got {steps}")
    levels = [math.cos((1 - t / steps + offset) / (1 + offset) * math.pi / 2) ** 2 for t in range(1, steps)]
    return DiscreteSchedule((0.0, *(level for level in levels if level < highest), *_clean_end(levels, highest)))


def _clean_end(levels: list[float], highest: float) -> list[float]:
    # With many steps several levels pass the clip; they are spread evenly below it, so that every block keeps a share.
    low = max((level for level in levels if level < highest), default=0.0)
    count = sum(level >= highest for level in levels) + 1
    return [low + (highest - low) * i / count for i in range(1, count + 1)]
