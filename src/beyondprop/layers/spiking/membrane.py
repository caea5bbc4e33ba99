"""The membrane of a leaky integrate-and-fire neuron with exponential currents, solved exactly between events."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from beyondprop.errors import UserError

MOST_STEPS = 100  # of the bracketed search; Newton's steps take five, bisection alone would take fifty


@dataclass(frozen=True)
class Membrane:
    """Potential V and current I of a neuron between two events, and when V reaches the threshold.

        dV/dt = -V/tau_m + I,    dI/dt = -I/tau_s
        V(s) = V e^(-s/tau_m) + I κ(s),    I(s) = I e^(-s/tau_s),
        κ(s) = tau_m tau_s / (tau_m - tau_s) (e^(-s/tau_m) - e^(-s/tau_s))

    An input spike adds its weight to I. At a spike of its own V goes from the threshold to 0, and I stays. While V is
    above 0 and rises it is concave, so that the first crossing is the only one on the way to the peak.

    Args:
        tau_m: Time constant of the membrane; `math.inf` for a neuron that does not leak.
        tau_s: Time constant of the current, in the same unit.
        threshold: θ, above 0.

    Raises:
        UserError: A constant is not above 0, or tau_s or the threshold is infinite.

    >>> float(Membrane(2.0, 1.0).crossing(torch.tensor(0.0), torch.tensor(4.0)))  # 8 (u - u²) = 1, s = -2 ln u
    0.316...
    """

    tau_m: float = 2.0
    tau_s: float = 1.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no membrane."""
        for name in ("tau_m", "tau_s", "threshold"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not value > 0 or (math.isinf(value) and name != "tau_m"):
                allowed = "above 0, or math.inf" if name == "tau_m" else "above 0"
                raise UserError(f"{name} must be a number {allowed}, got {value!r}")

    @property
    def difference(self) -> float:
        """C = tau_m tau_s / (tau_m - tau_s), the constant before the two exponentials."""
        rate = 1 / self.tau_s - 1 / self.tau_m
        return 1 / rate if rate else math.inf

    def leak(self, s: Tensor) -> Tensor:
        """What is left of a potential after a time s."""
        return torch.ones_like(s) if math.isinf(self.tau_m) else torch.exp(s / -self.tau_m)

    def fade(self, s: Tensor) -> Tensor:
        """What is left of a current after a time s."""
        return torch.exp(s / -self.tau_s)

    def kernel(self, s: Tensor) -> Tensor:
        """κ(s), the potential a time s after a current of 1 has begun; tau_m may lie close to tau_s."""
        if math.isinf(self.difference):
            return s * self.fade(s)
        c = abs(self.difference)
        slow = self.leak(s) if self.tau_m > self.tau_s else self.fade(s)
        return -c * slow * torch.expm1(s / -c)

    def decays(self, s: Tensor) -> Tensor:
        """`leak`, `fade` and `kernel` of s, stacked."""
        leak = self.leak(s)
        if self.tau_m == 2 * self.tau_s and s.dtype == torch.float64:  # whose digits suffice for a difference
            fade = leak * leak
            return torch.stack([leak, fade, self.difference * (leak - fade)])
        return torch.stack([leak, self.fade(s), self.kernel(s)])

    def peak(self) -> float:
        """The highest value of κ; of a neuron that does not leak the one that it tends to."""
        if math.isinf(self.tau_m):
            return self.tau_s
        ratio = self.tau_m / self.tau_s
        at = self.tau_s if ratio == 1 else self.difference * math.log(ratio)
        return float(self.kernel(torch.tensor(at, dtype=torch.float64)))

    def slope(self, current: Tensor) -> Tensor:
        """V' at a spike, where V is the threshold."""
        return current - self.threshold / self.tau_m

    def crossing(self, v: Tensor, i: Tensor) -> Tensor:
        """The time until V first reaches the threshold from below.

        Args:
            v: V now; at or above the threshold (which only rounding makes) counts as reaching it now if V rises.
            i: I now.

        Returns:
            Of the same shape: at least 0, and infinite where the threshold is never reached.
        """
        if math.isinf(self.tau_m):
            s = self._without_leak(v, i)
        elif self.tau_m == 2 * self.tau_s:
            s = self._by_square_root(v, i)
        elif self.tau_m == self.tau_s:
            s = self._by_lambert(v, i)
        else:
            s = self._by_search(v, i)
        rises = self.tau_m * i > v if math.isfinite(self.tau_m) else i > 0
        s = torch.where(v >= self.threshold, torch.zeros_like(s), s)
        return torch.where(rises & (s >= 0), s, torch.full_like(s, math.inf))  # NaN compares as false

    def _without_leak(self, v: Tensor, i: Tensor) -> Tensor:
        """tau_m infinite: V + I tau_s q = θ with q = 1 - e^(-s/tau_s)."""
        return -self.tau_s * torch.log1p((v - self.threshold) / (i * self.tau_s))

    def _by_square_root(self, v: Tensor, i: Tensor) -> Tensor:
        """tau_m = 2 tau_s: a quadratic equation in q = 1 - e^(-s/tau_m), whose smaller root is the earlier time."""
        rise, missing = i * self.tau_m - v, self.threshold - v
        root = torch.sqrt(rise * rise - 4 * self.tau_m * i * missing)
        return -self.tau_m * torch.log1p(-2 * missing / (rise + root))

    def _by_lambert(self, v: Tensor, i: Tensor) -> Tensor:
        """tau_m = tau_s: s = -V/I - tau W0(-θ/(I tau) e^(-V/(I tau)))."""
        start = v / (i * self.tau_s)
        return -self.tau_s * (start + lambert_w0(-self.threshold / (i * self.tau_s) * torch.exp(-start)))

    def _by_search(self, v: Tensor, i: Tensor) -> Tensor:
        """Any tau_m and tau_s: Newton's steps inside a bracket that ends at the peak of V."""
        c = self.difference
        peak = c * torch.log1p((self.tau_m * i - v) / (v + c * i))
        missed = ~(self._potential(v, i, peak) >= self.threshold)
        low, high, s = torch.zeros_like(peak), peak, torch.zeros_like(peak)
        for _ in range(MOST_STEPS):
            value = self._potential(v, i, s)
            below = value < self.threshold
            low, high = torch.where(below, s, low), torch.where(below, high, s)
            step = s + (self.threshold - value) / (i * self.fade(s) - value / self.tau_m)
            inside = (step >= low) & (step <= high)
            after = torch.where(inside, step, (low + high) / 2)
            if bool((missed | ((after - s).abs() <= torch.finfo(s.dtype).eps * after)).all()):
                break
            s = after
        return torch.where(missed, torch.full_like(s, math.inf), s)

    def _potential(self, v: Tensor, i: Tensor, s: Tensor) -> Tensor:
        return v * self.leak(s) + i * self.kernel(s)


def lambert_w0(z: Tensor) -> Tensor:
    """The principal branch of Lambert's W, W e^W = z, for -1/e <= z <= 0: Halley's steps from the series at -1/e.

    Returns:
        NaN below -1/e.

    >>> w = lambert_w0(torch.tensor(-0.2, dtype=torch.float64))
    >>> abs(float(w * w.exp()) + 0.2) < 1e-15
    True
    """
    p = torch.sqrt(2 * (1 + math.e * z))
    near = -1 + p * (1 - p * (1 / 3 - p * (11 / 72 - p * (43 / 540 - p * (769 / 17280)))))
    w = near.clamp(max=0)
    for _ in range(4):
        e = torch.exp(w)
        f = w * e - z
        w = w - f / (e * (w + 1) - (w + 2) * f / (2 * w + 2))
    return torch.where(p < 1e-3, near, w)  # at the branch point the step's denominator is 0 and the series exact
