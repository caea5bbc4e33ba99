"""The largest Lyapunov exponent of one node alone."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from beyondprop.dynamics.systems import System


def largest_exponent(
    system: System, *, time: float = 2000.0, washout: float = 200.0, piece: float = 1.0, tolerance: float = 1e-8
) -> float:
    """Follow a small deviation by the linearised equations, and measure how it grows (Benettin 1980).

    Args:
        system: With a Jacobian.
        time: Over which growth is averaged, at least: pieces are whole.
        washout: Before that.
        piece: Time after which the deviation's length is taken off.
        tolerance: Of the solver.

    Returns:
        Per unit of time; above zero where the motion is chaotic.
    """
    count = system.components
    state = np.concatenate((np.asarray(system.place) + 0.1, np.eye(count)[0]))

    def slope(t: float, s: np.ndarray) -> np.ndarray:
        x = s[:count]
        return np.concatenate((system.slope(t, x), system.jacobian(t, x) @ s[count:]))

    t, grown, counted = 0.0, 0.0, 0.0
    while counted < time:
        counts, until = t >= washout, t + piece
        state = solve_ivp(slope, (t, until), state, system.method, rtol=tolerance, atol=tolerance).y[:, -1]
        length = float(np.linalg.norm(state[count:]))
        state[count:] /= length
        t = until
        if counts:
            grown, counted = grown + float(np.log(length)), counted + piece
    return grown / counted
