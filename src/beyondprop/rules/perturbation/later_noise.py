"""Activity perturbation without what later noise does: signals from the last call of a layer to the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-4  # of the mean sum of squares, so that noise that repeats itself can be divided by


class NoisyCall(NamedTuple):
    """What noise did at one call of a layer, each of shape (samples, batch, units).

    Attributes:
        differences: Δ, by how much its outputs have moved in all.
        noise: ξ, the part of it that was added at this very call.
        ends_step: Whether it is the readout of a time step, which acts on the loss of that step alone.
    """

    differences: Tensor
    noise: Tensor
    ends_step: bool = False


def signals_in_turn(calls: Sequence[NoisyCall], change: Tensor, *, future: bool) -> list[Tensor | None]:
    r"""Regress δL on the differences of every call, less what the noise of later calls explains of it.

        ĝ_c = argmin_g Σ_s (δL_cs - g·Δ_cs)²        δL_cs = δL_s - Σ_{c' after c} ĝ_{c',-s}·ξ_c's

    with ĝ_{c',-s} the same regression without sample s. Noise that comes later is independent of Δ_c, so that what is
    taken off has the mean zero and only variance goes. Where later calls see the loss through c alone, nothing but
    terms of order σ is left of it: ĝ is ∂L/∂h_c of the example, as back-propagation has it, from little more samples
    than units.

    Args:
        calls: In their order.
        change: δL, shape (samples, batch) or, of a sequence, (samples, batch, time); there each step has one call that
            ends it, the last.
        future: Of a sequence: whether δL counts all losses from the step on, or that of the step alone.

    Returns:
        For each call the signals of shape (batch, units); None where it has too many units for its samples, so that
        its noise is not explained either.

    >>> noise = torch.randn(8, 5, 2)
    >>> signal, = signals_in_turn([NoisyCall(noise, noise)], noise @ torch.tensor([1.0, -3.0]), future=True)
    >>> torch.allclose(signal, torch.tensor([1.0, -3.0]), atol=0.01)
    True
    """
    steps = list(change.unbind(2)) if change.ndim == 3 else []
    left = torch.zeros_like(steps[0]) if steps else change
    found: list[Tensor | None] = []
    for call in reversed(calls):
        target = left
        if call.ends_step:
            target = steps.pop()
            left = target + left if future else target
        if not explains(*call.differences.shape[::2]):
            found.append(None)
            continue
        signal, explained = regression(target, call)
        left = left - explained
        found.append(signal)
    return found[::-1]


def explains(samples: int, units: int) -> bool:
    """Whether the regression without one sample still has an error of finite variance."""
    return samples > units + 2


def regression(target: Tensor, call: NoisyCall) -> tuple[Tensor, Tensor]:
    """Regress on the differences, for each example.

    Args:
        target: Shape (samples, batch).
        call: The differences; and the noise, of which the effect is predicted.

    Returns:
        ĝ of shape (batch, units), and ĝ_{-s}·ξ_s of shape (samples, batch), for which each sample is left out.
    """
    along, noise, y = call.differences.movedim(1, 0), call.noise.movedim(1, 0), target.T.unsqueeze(2)
    squares = along.mT @ along
    diagonal = squares.diagonal(dim1=-2, dim2=-1)
    diagonal += RIDGE * diagonal.mean(dim=-1, keepdim=True)
    weights = torch.linalg.solve(squares, along.mT)  # (batch, units, samples)
    signal = weights @ y
    own, leverage = (noise.mT * weights).sum(dim=1), (along.mT * weights).sum(dim=1)
    error = (y - along @ signal).squeeze(2) / (1 - leverage)  # of the prediction for a sample that is left out
    return signal.squeeze(2), ((noise @ signal).squeeze(2) - own * error).T
