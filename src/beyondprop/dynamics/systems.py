"""Local systems whose networks are simulated: Lorenz, Chua and FitzHugh-Nagumo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lorenz:
    """x' = s (y - x),  y' = x (r - z) - y,  z' = x y - b z  (Lorenz 1963)."""

    s: float = 10.0
    r: float = 28.0
    b: float = 8 / 3

    components: ClassVar[int] = 3
    period: ClassVar[float] = 0.0
    method: ClassVar[str] = "DOP853"
    place: ClassVar[tuple[float, ...]] = (1.0, 1.0, 25.0)
    spread: ClassVar[float] = 3.0

    def slope(self, t: float, x: Array) -> Array:
        """f(t, x) of states (..., 3)."""
        del t
        u, v, w = np.moveaxis(x, -1, 0)
        return np.stack((self.s * (v - u), u * (self.r - w) - v, u * v - self.b * w), -1)

    def jacobian(self, t: float, x: Array) -> Array:
        """df/dx of one state (3,), shape (3, 3)."""
        del t
        u, v, w = x
        return np.array([[-self.s, self.s, 0], [self.r - w, -1, -u], [v, u, -self.b]])


@dataclass(frozen=True)
class Chua:
    """x' = a (y - x - g(x)),  y' = x - y + z,  z' = -b y,  with a piecewise linear diode g (Matsumoto 1984).

    g has the slopes m0 within 1 of zero, m1 up to the limit, and 1 beyond: a real diode's outer segments, which bring
    back what leaves the attractor. `a` may be an array with an entry for each node: nodes that are not identical.
    """

    a: float | tuple[float, ...] = 15.6
    b: float = 28.0
    m0: float = -8 / 7
    m1: float = -5 / 7
    limit: float = 3.5

    components: ClassVar[int] = 3
    period: ClassVar[float] = 0.0
    method: ClassVar[str] = "RK45"  # of lower order: every kink ends a step
    place: ClassVar[tuple[float, ...]] = (0.5, 0.0, -0.5)
    spread: ClassVar[float] = 0.1

    def slope(self, t: float, x: Array) -> Array:
        """f(t, x) of states (..., 3), nodes in the last dimension but one where `a` has several entries."""
        del t
        u, v, w = np.moveaxis(x, -1, 0)
        inner = 0.5 * (self.m0 - self.m1) * (np.abs(u + 1) - np.abs(u - 1))
        outer = 0.5 * (self.m1 - 1) * (np.abs(u + self.limit) - np.abs(u - self.limit)) - (self.m1 - 1) * u
        a = np.asarray(self.a)
        return np.stack((a * (v - u - (self.m1 * u + inner + outer)), u - v + w, -self.b * v), -1)

    def jacobian(self, t: float, x: Array) -> Array:
        """df/dx of one state (3,), shape (3, 3); for one `a` alone."""
        del t
        u = abs(x[0])
        slope = self.m0 if u < 1 else self.m1 if u < self.limit else 1.0
        a = float(np.asarray(self.a))
        return np.array([[-a * (1 + slope), a, 0], [1, -1, 1], [0, -self.b, 0]])


@dataclass(frozen=True)
class FitzHughNagumo:
    """x' = x (x - 1) (1 - r x) - y + (a / w) cos(w t),  y' = b x,  w = 2 pi f  (Hong 2011).

    A neuron that is driven, and chaotic in windows of f: at 0.129 it is, at 0.125 it is not.
    """

    f: float = 0.129
    r: float = 10.0
    a: float = 0.1
    b: float = 1.0

    components: ClassVar[int] = 2
    method: ClassVar[str] = "DOP853"
    place: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    spread: ClassVar[float] = 0.3

    @property
    def period(self) -> float:
        """Of the drive."""
        return 1 / self.f

    def slope(self, t: float, x: Array) -> Array:
        """f(t, x) of states (..., 2)."""
        u, v = np.moveaxis(x, -1, 0)
        w = 2 * math.pi * self.f
        return np.stack((u * (u - 1) * (1 - self.r * u) - v + self.a / w * math.cos(w * t), self.b * u), -1)

    def jacobian(self, t: float, x: Array) -> Array:
        """df/dx of one state (2,), shape (2, 2)."""
        del t
        u = x[0]
        return np.array([[-3 * self.r * u**2 + 2 * (1 + self.r) * u - 1, -1], [self.b, 0]])


System = Lorenz | Chua | FitzHughNagumo
