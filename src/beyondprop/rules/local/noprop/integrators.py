"""From noise to a label in N steps: solvers of ordinary differential equations, and NoProp's own diffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from beyondprop.errors import UserError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""dz/dt at (z, t), with t a scalar tensor."""
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""û(z, t), the expected clean embedding, with t a scalar tensor."""


def integrate(velocity: Velocity, z: Tensor, times: Tensor, method: str) -> Tensor:
    """Solve dz/dt = v(z, t) along a grid of times.

    Args:
        velocity: v.
        z: Where it starts, at times[0].
        times: The grid, shape (steps + 1,), in order.
        method: `"euler"`: order 1, one evaluation a step. `"heun"`: order 2, two evaluations. `"adams-bashforth"`:
            order 2 by remembering the last step, one evaluation (the first step is Euler's).

    Returns:
        z at times[-1].

    >>> grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    >>> round(float(integrate(lambda z, t: z, torch.ones((), dtype=torch.float64), grid, "heun")), 4)  # e
    2.7182
    """
    former: tuple[Tensor, Tensor] | None = None
    for now, then in pairwise(times):
        step, slope = then - now, velocity(z, now)
        if method == "euler":
            z = z + step * slope
        elif method == "heun":
            z = z + 0.5 * step * (slope + velocity(z + step * slope, then))
        elif method == "adams-bashforth":
            # The slope in the middle of the step, on the straight line through the last two.
            middle = slope if former is None else slope + 0.5 * step / (now - former[1]) * (slope - former[0])
            z, former = z + step * middle, (slope, now)
        else:
            raise UserError(f"method must be 'euler', 'heun' or 'adams-bashforth', got {method!r}")
    return z


def diffuse(denoise: Denoiser, z: Tensor, times: Tensor, gamma: Tensor) -> Tensor:
    """Ancestral sampling: NoProp's update (3) with the coefficients (7) between any two times.

    Args:
        denoise: û.
        z: Noise, at times[0].
        times: The grid, shape (steps + 1,).
        gamma: γ = -log SNR at these times, falling.

    Returns:
        A draw of z at times[-1].
    """
    keep, noise = torch.sigmoid(-gamma), torch.sigmoid(gamma)  # ᾱ and 1 - ᾱ, each to full precision
    for i in range(len(times) - 1):
        # 1 - α with α = ᾱ_i / ᾱ_{i+1}: a difference of neighbours, so it is taken from γ's.
        new = -torch.expm1(gamma[i + 1] - gamma[i]) * noise[i]
        alpha = 1 - new
        a = keep[i + 1].sqrt() * new / noise[i]
        b = alpha.sqrt() * noise[i + 1] / noise[i]
        c = noise[i + 1] * new / noise[i]
        z = a * denoise(z, times[i]) + b * z + c.sqrt() * torch.randn_like(z)
    return z


def integrate_exponentially(denoise: Denoiser, z: Tensor, times: Tensor, gamma: Tensor, order: int) -> Tensor:
    """Solve the probability-flow equation with its linear part exact, so that û alone is approximated.

    With û held during a step (order 1) this is DDIM (Song et al., arXiv 2010.02502, eq. 12); with û on the line through
    its last two values (order 2) it is DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Algorithm 2). Either evaluates û
    once a step, and a single step from pure noise gives û itself.

    Args:
        denoise: û.
        z: Where it starts, at times[0].
        times: The grid, shape (steps + 1,).
        gamma: γ = -log SNR at these times, falling.
        order: 1 or 2.

    Returns:
        z at times[-1].
    """
    signal, noise = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
    former = None
    for i in range(len(times) - 1):
        guess = denoise(z, times[i])
        ahead = guess
        if order == 2 and former is not None:
            # In the middle of the step, by half of log SNR.
            ratio = (gamma[i + 1] - gamma[i]) / (gamma[i] - gamma[i - 1])
            ahead = guess + 0.5 * ratio * (guess - former)
        # 1 - exp(-h) with h the growth of log(signal / noise) over the step
        growth = -torch.expm1(0.5 * (gamma[i + 1] - gamma[i]))
        z = noise[i + 1] / noise[i] * z + signal[i + 1] * growth * ahead
        former = guess
    return z


def one_of(name: str, value: str, options: Sequence[str]) -> None:
    """Refuse a word that is none of the options.

    Raises:
        UserError: It names them.
    """
    if value not in options:
        raise UserError(f"{name} must be one of {', '.join(options)}, not {value!r}")


def check_steps(steps: int) -> None:
    """Refuse a number of steps below one.

    Raises:
        UserError: It is.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UserError(f"steps must be a whole number of at least 1, got {steps!r}")
