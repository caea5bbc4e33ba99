"""Curvature of the windows' squared error: Gauss and Newton's, with each node's own Jacobian alone.

Forward sensitivities of a node's state, by its start, its row of weights and the local model's parameters, are carried
along a trajectory. What one node's error does to others within a window is left out here, and only here: gradients are
exact, so that what is converged to does not depend on it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from beyondprop.dynamics.local_model import LocalModel


class Curvature(NamedTuple):
    """Second derivatives of half the sum of squared residuals, with the starts of all windows taken out.

    Attributes:
        rows: By each node's weights, shape (nodes, nodes - 1, nodes - 1), the other nodes in order; double precision.
        starts: Inverse curvature by a start, shape (windows, nodes, components, components).
        across: How a start follows a weight, shape (windows, nodes, components, nodes - 1).
        local: By the local model's parameters, shape (parameters, parameters), double precision; or None.
        mixed: By weights and parameters, shape (nodes, nodes - 1, parameters), double precision; or None.
        following: How a start follows a parameter, shape (windows, nodes, components, parameters); or None.
    """

    rows: Tensor
    starts: Tensor
    across: Tensor
    local: Tensor | None
    mixed: Tensor | None
    following: Tensor | None


class _Sensitivities(NamedTuple):
    start: Tensor  # (windows * nodes, samples * components, components)
    weights: Tensor  # (..., nodes - 1)
    parameters: Tensor | None


def others_of(nodes: int, device: torch.device | None = None) -> Tensor:
    """For every node the indices of all others, in order, shape (nodes, nodes - 1)."""
    grid = torch.arange(nodes, device=device).expand(nodes, nodes)
    return grid[~torch.eye(nodes, dtype=torch.bool, device=device)].view(nodes, nodes - 1)


def sensitivities(
    model: LocalModel,
    weights: Tensor,
    states: Tensor,
    nodes: Tensor,
    *,
    interval: float,
    coupled: tuple[int, ...],
    drive: Tensor | None,
    kept: int,
    parameters: bool,
) -> _Sensitivities:
    """Carry dx_k/d(start), dx_k/dw_kj and dx_k/dtheta along a trajectory.

        S(t + h) = A S(t) + M B,   A = exp(h J) and M = h (1 + hJ/2 + (hJ)^2/6) to third order, J = Df - deg_k e e'

    Args:
        model: f.
        weights: Shape (nodes, nodes).
        states: The trajectory, shape (windows, samples, nodes, components).
        nodes: Those that are wanted.
        interval: Between two samples.
        coupled: Components that couple.
        drive: At the samples, shape (windows, samples, drives), or None.
        kept: Every so many samples the sensitivities are kept, and at both ends.
        parameters: Whether those by theta are wanted.
    """
    windows, samples, count, components = states.shape
    rows, columns = windows * len(nodes), list(coupled)
    theta = sum(p.numel() for p in model.parameters())
    identity = torch.eye(components, dtype=states.dtype, device=states.device)
    degrees, others = weights.sum(1)[nodes].repeat(windows), others_of(count, states.device)[nodes]

    def at(t: int) -> tuple[Tensor, Tensor | None, Tensor]:
        x = states[:, t]
        own = x[:, nodes]
        given = own.reshape(rows, components)
        if drive is not None:
            given = torch.cat((given, drive[:, t, None].expand(-1, len(nodes), -1).reshape(rows, -1)), dim=1)
        jacobian, by_theta = model.jacobians(given, parameters=parameters)
        jacobian = jacobian.clone()
        jacobian[:, columns, columns] -= degrees[:, None]
        forces = x.new_zeros(rows, components, count - 1)
        for c in columns:
            forces[:, c] = (x[:, :, c][:, others] - own[:, :, c, None]).reshape(rows, count - 1)
        return jacobian, by_theta, forces

    by_start, by_weights = identity.expand(rows, -1, -1), states.new_zeros(rows, components, count - 1)
    by_parameters = states.new_zeros(rows, components, theta) if parameters else None
    found: list[tuple[Tensor, Tensor, Tensor | None]] = [(by_start, by_weights, by_parameters)]
    before = at(0)
    for t in range(1, samples):
        after = at(t)
        step = interval * (before[0] + after[0]) / 2
        square = step @ step
        carried = identity + step + square / 2 + square @ step / 6
        taken = interval * (identity + step / 2 + square / 6)
        by_start = carried @ by_start
        by_weights = carried @ by_weights + taken @ ((before[2] + after[2]) / 2)
        if by_parameters is not None and before[1] is not None and after[1] is not None:
            by_parameters = carried @ by_parameters + taken @ ((before[1] + after[1]) / 2)
        before = after
        if t % kept == 0 or t == samples - 1:
            found.append((by_start, by_weights, by_parameters))
    share = (samples / len(found)) ** 0.5
    starts, rows_, thetas = zip(*found, strict=True)
    return _Sensitivities(
        torch.cat(starts, 1) * share,
        torch.cat(rows_, 1) * share,
        torch.cat(thetas, 1) * share if parameters else None,
    )


@torch.no_grad()
def curvature(
    model: LocalModel,
    weights: Tensor,
    states: Tensor,
    scale: Tensor,
    *,
    interval: float,
    coupled: tuple[int, ...],
    drive: Tensor | None,
    stride: int,
    kept: int,
    parameters: bool,
    chunk: int = 8,
) -> Curvature:
    """Curvature along trajectories.

    Args:
        model: f.
        weights: As in `sensitivities`.
        states: As in `sensitivities`.
        scale: Of each component, by which residuals are divided.
        interval: As in `sensitivities`.
        coupled: As in `sensitivities`.
        drive: As in `sensitivities`.
        stride: Sensitivities take steps of so many samples.
        kept: As in `sensitivities`, in steps.
        parameters: Whether that by the local model's parameters is wanted.
        chunk: Nodes at a time.
    """
    windows, samples, count, components = states.shape
    thinned = None if drive is None else drive[:, ::stride]
    rows: list[Tensor] = []
    starts: list[Tensor] = []
    across: list[Tensor] = []
    mixed: list[Tensor] = []
    following: list[Tensor] = []
    local: Tensor | None = None
    for nodes in torch.arange(count, device=states.device).split(chunk):
        found = sensitivities(
            model,
            weights,
            states[:, ::stride],
            nodes,
            interval=stride * interval,
            coupled=coupled,
            drive=thinned,
            kept=kept,
            parameters=parameters,
        )
        units = (samples / -(-samples // stride)) ** 0.5 / scale.repeat(found.start.shape[1] // components)[:, None]
        start, shape = found.start * units, (windows, len(nodes), components)
        square = start.mT @ start
        square.diagonal(dim1=1, dim2=2).add_(1e-6 * square.diagonal(dim1=1, dim2=2).mean(1, keepdim=True))
        inverse = torch.linalg.inv(square)

        def reduced(part: Tensor, start: Tensor = start, inverse: Tensor = inverse, units: Tensor = units,
                    shape: tuple[int, ...] = shape) -> tuple[Tensor, Tensor]:  # fmt: skip
            part = part * units
            follows = inverse @ (start.mT @ part)
            part = part - start @ follows
            by_node = part.view(windows, shape[1], part.shape[1], -1).transpose(0, 1).flatten(1, 2)
            return by_node, follows.view(*shape, -1)

        row, row_across = reduced(found.weights)
        rows.append((row.mT @ row).double())
        starts.append(inverse.view(*shape, components))
        across.append(row_across)
        if found.parameters is not None:
            theta, theta_follows = reduced(found.parameters)
            mixed.append((row.mT @ theta).double())
            following.append(theta_follows)
            flat = theta.flatten(0, 1)
            gram = (flat.T @ flat).double()
            local = gram if local is None else local + gram
    return Curvature(
        torch.cat(rows),
        torch.cat(starts, 1),
        torch.cat(across, 1),
        local,
        torch.cat(mixed) if mixed else None,
        torch.cat(following, 1) if following else None,
    )
