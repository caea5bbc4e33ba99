"""Straight-through estimators: what threshold networks are usually trained by, as baselines of the convex programs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError

Estimator = Literal["identity", "relu", "leaky", "clipped"]

# What stands for the derivative of 1{z >= 0}.
SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "relu": lambda z: (z >= 0).to(z.dtype),
    "leaky": lambda z: torch.where(z >= 0, 1.0, 0.01).to(z.dtype),
    "clipped": lambda z: ((z >= 0) & (z <= 1)).to(z.dtype),
}


class _Threshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, estimator: str) -> Tensor:
        ctx.save_for_backward(z)
        ctx.estimator = estimator
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return gradient * SURROGATES[ctx.estimator](z), None


class StraightThroughNetwork(nn.Module):
    r"""Threshold layers with a surrogate derivative, and a linear output: f(x) = Σ_j w_j s_j 1{...}_j.

    The backward pass of a threshold takes 1 (`identity`), 1{z >= 0} (`relu`), that and 0.01 below zero (`leaky`), or
    1{0 <= z <= 1} (`clipped`), as the code of arXiv 2303.03382 does. Unlike there, the last hidden layer has trainable
    amplitudes s, and `objective` is the one that the convex programs minimise, so that figures can be compared.

    Args:
        widths: Numbers of a sample, then neurons of each hidden layer.
        estimator: Which derivative.

    Raises:
        UserError: There is no such estimator, or no hidden layer.
    """

    def __init__(self, widths: tuple[int, ...], estimator: Estimator = "identity") -> None:
        super().__init__()
        if estimator not in SURROGATES:
            raise UserError(f"estimator must be one of {', '.join(SURROGATES)}, not {estimator!r}")
        if len(widths) < 2:
            raise UserError(f"widths must name the inputs and at least one hidden layer, got {widths}")
        for width in widths:
            check_whole(1, width=width)
        self.estimator = estimator
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.amplitude = nn.Parameter(torch.ones(widths[-1]))
        self.output = nn.Parameter(torch.randn(widths[-1]) / widths[-1] ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (n,)."""
        for layer in self.hidden:
            x = _Threshold.apply(layer(x), self.estimator)
        return x @ (self.amplitude * self.output)

    def objective(self, x: Tensor, y: Tensor, beta: float) -> Tensor:
        """½ ‖f(x) - y‖² + β/2 (‖s‖² + ‖w‖²); hidden weights need no decay, for their length is of no matter."""
        decay = self.amplitude.square().sum() + self.output.square().sum()
        return (self(x) - y).square().sum() / 2 + beta / 2 * decay


def fit_straight_through(
    network: StraightThroughNetwork,
    x: Tensor,
    y: Tensor,
    beta: float,
    *,
    epochs: int = 2000,
    learning_rate: float = 0.01,
    until: float | None = None,
) -> list[float]:
    """Train by gradient descent on the whole set, with the schedule of the paper's code: half the rate on a plateau.

    Args:
        network: Trained in place.
        x: Samples, shape (n, d).
        y: Targets, shape (n,).
        beta: β of `objective`.
        epochs: Steps.
        learning_rate: Of the objective divided by n, to begin with.
        until: Stop where the objective has come down to it.

    Returns:
        The objective before each step.
    """
    check_whole(1, epochs=epochs)
    check_number(beta=beta, learning_rate=learning_rate, above=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, eps=1e-12)
    objectives: list[float] = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = network.objective(x, y, beta) / len(x)
        objectives.append(float(loss.detach()) * len(x))
        if until is not None and objectives[-1] <= until:
            break
        loss.backward()
        optimizer.step()
        scheduler.step(loss.detach())
    return objectives
