"""A first guess without integration: slopes of the smoothed series by a closed form, then by the local model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beyondprop.dynamics.coupling import coupling
from beyondprop.dynamics.edges import Edges, sparse_posterior
from beyondprop.dynamics.local_model import LocalModel
from beyondprop.dynamics.regression import least_squares

FEATURES = 80  # random ones, of the closed form
REPEATS = 3  # of fitting the local model, then the weights
SAMPLES = 4000  # that the local model is first fitted to


def first_guess(
    model: LocalModel,
    states: Tensor,
    slopes: Tensor,
    *,
    drive: Tensor | None,
    coupled: tuple[int, ...],
    sweeps: int,
) -> Edges:
    """Guess the weights over random features as local model, and fit the local model to what is left of the slopes.

    Args:
        model: Set here, its scales too.
        states: Smoothed, shape (samples, nodes, components).
        slopes: Of the same shape.
        drive: Shape (samples, drives), or None.
        coupled: Components that couple.
        sweeps: As `sparse_posterior` takes them.

    Returns:
        The posterior of the weights.
    """
    given = _given(states, drive)
    model.mean.copy_(given.mean((0, 1)))
    model.scale.copy_(given.std((0, 1)).clamp(min=1e-12))
    model.rate.copy_(slopes.std((0, 1)).clamp(min=1e-12))
    z = ((given - model.mean) / model.scale).double().cpu().numpy()
    draw = torch.randn(z.shape[-1] + 1, FEATURES, dtype=torch.float64).numpy()
    features = np.concatenate((np.ones_like(z[..., :1]), z, np.tanh(z @ draw[:-1] + draw[-1])), axis=-1)
    numbers, rates = states.double().cpu().numpy(), slopes.double().cpu().numpy()
    weights = least_squares(numbers, rates, coupled, lambda _x: features).weights
    for _ in range(REPEATS):
        fit_to_slopes(model, states, slopes, weights, drive=drive, coupled=coupled)
        with torch.no_grad():
            own = model(given).double().cpu().numpy()
        edges = _edges(numbers, rates - own, coupled, sweeps)
        weights = _placed(edges.mean)
    return edges


def fit_to_slopes(
    model: LocalModel,
    states: Tensor,
    slopes: Tensor,
    weights: NDArray[np.float64],
    *,
    drive: Tensor | None,
    coupled: tuple[int, ...],
    steps: int = 40,
) -> None:
    """Fit the local model to what the weights leave of the slopes, on some of the samples.

    Args:
        model: With its scales set.
        states: As in `first_guess`.
        slopes: As in `first_guess`.
        weights: Shape (nodes, nodes).
        drive: As in `first_guess`.
        coupled: As in `first_guess`.
        steps: Of Levenberg and Marquardt, at most.
    """
    rest = slopes.double().cpu().numpy() - coupling(states.double().cpu().numpy(), weights, coupled)
    chosen = torch.randperm(states.shape[0] * states.shape[1])[:SAMPLES]
    seen = _given(states, drive).flatten(0, 1)[chosen]
    _levenberg_marquardt(model, seen, torch.from_numpy(rest).to(states).flatten(0, 1)[chosen], steps)


def _given(states: Tensor, drive: Tensor | None) -> Tensor:
    """What the local model sees."""
    return states if drive is None else torch.cat((states, drive[:, None].expand(-1, states.shape[1], -1)), dim=2)


def _edges(states: NDArray[np.float64], rest: NDArray[np.float64], coupled: tuple[int, ...], sweeps: int) -> Edges:
    """The posterior of every node's weights for a known local model, from slopes."""
    nodes = states.shape[1]
    precision, found = np.zeros((nodes, nodes - 1, nodes - 1)), np.zeros((nodes, nodes - 1))
    for k in range(nodes):
        others = np.arange(nodes) != k
        matrix = np.concatenate([states[:, others, c] - states[:, [k], c] for c in coupled])
        wanted = np.concatenate([rest[:, k, c] for c in coupled])
        found[k] = np.linalg.lstsq(matrix, wanted, rcond=1e-6)[0]
        left = wanted - matrix @ found[k]
        precision[k] = matrix.T @ matrix / (np.mean(left**2) * _alike(left))
        precision[k] += 1e-9 * np.trace(precision[k]) / nodes * np.eye(nodes - 1)
    return sparse_posterior(precision, found, sweeps=sweeps)


def _alike(left: NDArray[np.float64]) -> float:
    """How many neighbouring residuals say the same: the sum of their autocorrelation until it first is negative."""
    spectrum = np.abs(np.fft.rfft(left - left.mean(), 2 * len(left))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(left)]
    ends = np.flatnonzero(correlation <= 0)
    return float(2 * correlation[: ends[0] if len(ends) else None].sum() / max(correlation[0], 1e-300) - 1)


def _placed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows without the diagonal, as a matrix with zeros there."""
    nodes = len(rows)
    weights = np.zeros((nodes, nodes))
    weights[~np.eye(nodes, dtype=bool)] = rows.ravel()
    return weights


@torch.no_grad()
def _levenberg_marquardt(model: LocalModel, x: Tensor, slopes: Tensor, steps: int) -> None:
    """Least squares of slopes, each component in units of its deviation."""
    damping, parameters = 1e-2, list(model.parameters())

    def residual() -> Tensor:
        return (model(x) - slopes) / model.rate

    found = residual()
    loss = float(found.square().sum())
    for _ in range(steps):
        by_parameters = model.jacobians(x)[1]
        assert by_parameters is not None
        jacobian = (by_parameters / model.rate[:, None]).flatten(0, 1)
        gram, moment = (jacobian.T @ jacobian).double(), (jacobian.T @ found.flatten()).double()
        floor = gram.diagonal() + 1e-9 * gram.diagonal().max()
        before = [p.clone() for p in parameters]
        for _ in range(8):
            step = -torch.linalg.solve(gram + damping * torch.diag(floor), moment)
            torch.nn.utils.vector_to_parameters(torch.cat([p.flatten() for p in before]) + step.to(x), parameters)
            tried = residual()
            if float(tried.square().sum()) < loss:
                break
            damping *= 6
        else:
            for own, base in zip(parameters, before, strict=True):
                own.copy_(base)
            return
        found, loss, damping = tried, float(tried.square().sum()), max(damping / 4, 1e-10)
