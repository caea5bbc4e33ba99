"""Rolling a network model out from many starts at once; back-propagation through it is that through time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["rk4", "euler"]


def roll_out(
    local: Callable[[Tensor], Tensor],
    weights: Tensor,
    starts: Tensor,
    steps: int,
    interval: float,
    *,
    coupled: tuple[int, ...] = (0,),
    drive: Tensor | None = None,
    substeps: int = 1,
    scheme: Scheme = "rk4",
) -> Tensor:
    """Integrate dx_k/dt = f(x_k, u) + sum_j w_kj (x_j - x_k).

    Args:
        local: f, from (..., components + drives) to (..., components).
        weights: w_kj, from node j to node k, shape (nodes, nodes); the diagonal has no effect.
        starts: Shape (windows, nodes, components).
        steps: Samples after the start.
        interval: Time between two samples.
        coupled: Components that couple, each into itself.
        drive: u at the start, middle and end of every substep, shape (windows, 2 * steps * substeps + 1, drives).
        substeps: Of the scheme between two samples.
        scheme: Runge and Kutta's of order 4, or Euler's.

    Returns:
        The states, the start first, shape (windows, steps + 1, nodes, components).
    """
    h = interval / substeps
    # Products and the sum of weights are the same at every stage.
    degrees, columns, last = weights.sum(1), list(coupled), starts.shape[-1] - 1
    front = columns == list(range(len(columns)))
    places = torch.tensor(columns, device=starts.device)

    def slope(x: Tensor, moment: int) -> Tensor:
        if drive is not None:
            u = drive[:, moment, None].expand(-1, x.shape[1], -1)
            own = local(torch.cat((x, u), dim=-1))
        else:
            own = local(x)
        signal = x[..., columns]
        given = torch.einsum("kj,wjc->wkc", weights, signal) - degrees[:, None] * signal
        if front:
            return own + torch.nn.functional.pad(given, (0, last + 1 - len(columns)))
        return own.index_add(-1, places, given)

    x, found = starts, [starts]
    for step in range(steps):
        for part in range(substeps):
            at = 2 * (step * substeps + part)
            k1 = slope(x, at)
            if scheme == "euler":
                x = x + h * k1
                continue
            k2 = slope(x + h / 2 * k1, at + 1)
            k3 = slope(x + h / 2 * k2, at + 1)
            k4 = slope(x + h * k3, at + 2)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        found.append(x)
    return torch.stack(found, dim=1)
