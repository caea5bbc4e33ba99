"""The alternation over windows of a series: the local model by a damped Gauss-Newton step, the weights by BPTT."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from beyondprop.dynamics.curvature import Curvature, curvature, others_of
from beyondprop.dynamics.edges import Edges, Shared, sparse_posterior
from beyondprop.dynamics.local_model import LocalModel
from beyondprop.dynamics.rollout import roll_out

RIDGE = 1e-6  # of the curvature by weights, relative to its mean: for nodes that move together
SHORTER = (1.0, 0.3, 0.1, 0.0)  # what a step is shortened by before each trial, where the last one did not help
LEAST_GAIN = 1e-3  # a round that lowers the loss by less, relatively, is the last


@dataclass(frozen=True)
class Windows:
    """Pieces of series, one behind the other.

    Attributes:
        observed: Shape (windows, samples, nodes, components).
        starts: Where they are thought to begin, shape (windows, nodes, components).
        scale: Of each component's error.
        interval: Between two samples.
        coupled: Components that couple.
        substeps: Of the integration between two samples.
        drive: At the start, middle and end of all substeps, shape (windows, 2 * steps * substeps + 1, drives), or None.
    """

    observed: Tensor
    starts: Tensor
    scale: Tensor
    interval: float
    coupled: tuple[int, ...]
    substeps: int = 1
    drive: Tensor | None = None

    @property
    def drive_at_samples(self) -> Tensor | None:
        """U at the samples alone."""
        return None if self.drive is None else self.drive[:, :: 2 * self.substeps]


@dataclass
class _Point:
    """A point of the search: half the sum of squared residuals there, its gradients, and the trajectories.

    `errors` are the sums of squares by window and node.
    """

    loss: float
    states: Tensor
    starts: Tensor
    weights: Tensor
    parameters: list[Tensor]
    by_starts: Tensor
    by_weights: Tensor
    by_parameters: Tensor
    errors: Tensor

    @property
    def usable(self) -> bool:
        return math.isfinite(self.loss)


def window_gradients(
    model: LocalModel, weights: Tensor, starts: Tensor, windows: Windows
) -> tuple[float, Tensor, Tensor, Tensor, Tensor]:
    """Half the sum of squared residuals, and its gradients by back-propagation through time.

    Args:
        model: f.
        weights: Shape (nodes, nodes).
        starts: Shape (windows, nodes, components).
        windows: What was observed.

    Returns:
        The loss; the states; the gradients by starts, by weights (nodes, nodes) and by all parameters in one vector.
    """
    with torch.enable_grad():
        starts, weights = starts.detach().requires_grad_(), weights.detach().requires_grad_()
        states = roll_out(
            model,
            weights,
            starts,
            windows.observed.shape[1] - 1,
            windows.interval,
            coupled=windows.coupled,
            drive=windows.drive,
            substeps=windows.substeps,
        )
        loss = 0.5 * ((states - windows.observed) / windows.scale).square().sum()
        by_starts, by_weights, *rest = torch.autograd.grad(loss, [starts, weights, *model.parameters()])
    return loss.item(), states.detach(), by_starts, by_weights, torch.cat([g.flatten() for g in rest])


@dataclass
class Alternation:
    """Rounds on one set of windows, from a model and weights that it moves.

    Args:
        model: The local model; changed in place.
        weights: Shape (nodes, nodes).
        allowed: Which weights may differ from zero, shape (nodes, nodes).
        windows: What is to be explained.
        damping: Of the local model's steps, relative to each parameter's curvature; goes down with success.
        centre: Where the weights are thought to be, those that may differ from zero.
        width: How far from there; infinite where nothing is known.
    """

    model: LocalModel
    weights: Tensor
    allowed: Tensor
    windows: Windows
    damping: float = 1e-3
    centre: float = 0.0
    width: float = math.inf
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        observed = self.windows.observed
        steps, nodes = observed.shape[1] - 1, observed.shape[2]
        self._others = others_of(nodes, observed.device)
        self._free = self.allowed.gather(1, self._others)
        self._stride = 2 if steps % 2 == 0 and steps >= 16 and self.windows.substeps == 1 else 1
        self._kept = max(1, steps // 8 // self._stride)
        self._at = self._point(self.windows.starts, self.weights)
        self._pull = 0.0

    def run(self, rounds: int) -> None:
        """Alternate."""
        for _ in range(rounds):
            self._pull = self.noise / self.width**2
            before = self._cost(self._at)
            self.regress_weights()
            self.fit_local_model()
            self.losses.append(self._at.loss)
            if self._cost(self._at) > (1 - LEAST_GAIN) * before:
                break

    def regress_weights(self) -> None:
        """Move weights and starts against their BPTT gradient, by the inverse curvature, so far as it helps."""
        here, found = self._at, self._curvature_at(self._at, parameters=False)
        rows = self._slope(here) - self._followed(found.across, here.by_starts)
        rows = -torch.linalg.solve(self._held(found.rows), (rows * self._free).double().unsqueeze(-1))[..., 0]
        by_rows = rows.to(here.weights)
        self._take(here, self._start_steps(found, here, by_rows), by_rows, SHORTER)

    def fit_local_model(self) -> None:
        """Move the parameters, weights and starts by a damped Gauss-Newton step that lowers the loss.

        What weights and starts can make up for is taken out of the parameters' equations (Frisch and Waugh 1933), so
        that the local model does not creep towards what the weights are to explain.
        """
        here, found = self._at, self._curvature_at(self._at, parameters=True)
        assert found.local is not None
        assert found.mixed is not None
        assert found.following is not None
        held, mixed = self._held(found.rows), found.mixed * self._free[:, :, None]
        rows = (self._slope(here) - self._followed(found.across, here.by_starts)) * self._free
        own = here.by_parameters - torch.einsum("wkcp,wkc->p", found.following, here.by_starts)
        both = torch.linalg.solve(held, torch.cat((mixed, rows.double()[:, :, None]), dim=2))
        explained, plain = both[:, :, :-1], both[:, :, -1]
        left = found.local - torch.einsum("kjp,kjq->pq", mixed, explained)
        wanted = own.double() - torch.einsum("kjp,kj->p", mixed, plain)
        floor = found.local.diagonal() + 1e-9 * found.local.diagonal().max()
        for _ in range(6):
            step = -torch.linalg.solve(left + self.damping * torch.diag(floor), wanted)
            by_rows = (-plain - torch.einsum("kjp,p->kj", explained, step)).to(here.weights)
            starts = self._start_steps(found, here, by_rows)
            starts = starts - torch.einsum("wkcp,p->wkc", found.following, step.to(starts))
            self._set(here.parameters, step)
            if self._take(here, starts, by_rows, SHORTER[:2]):
                self.damping = max(self.damping / 5, 1e-10)
                return
            self.damping = min(5 * self.damping, 1e6)
        self._set(here.parameters)

    def _take(self, here: _Point, starts: Tensor, rows: Tensor, shorter: tuple[float, ...]) -> bool:
        """Go a step of starts and rows of weights, a shorter one where a node's own error would rise; if it helps.

        A node that is explained badly, for an edge of it is missing, may want a step that leads nowhere, and must not
        hold up all others.
        """
        by_start, by_row = torch.ones_like(here.errors), torch.ones_like(here.errors[0])
        fell, row_fell = by_start > 0, by_row > 0
        for factor in shorter:
            by_start = torch.where(fell, by_start, factor * by_start)
            by_row = torch.where(row_fell, by_row, factor * by_row)
            there = self._moved(here, by_start[:, :, None] * starts, by_row[:, None] * rows)
            if there.usable and self._cost(there) < self._cost(here):
                self._at = there
                return True
            fell, row_fell = there.errors < here.errors, there.errors.sum(0) < here.errors.sum(0)
        return False

    def _cost(self, point: _Point) -> float:
        """The loss, and what the weights cost by what is known of them: N(c, v^2) where they may differ from zero."""
        return point.loss + 0.5 * float((self._pull * self.allowed * (point.weights - self.centre).square()).sum())

    def _slope(self, here: _Point) -> Tensor:
        """Of the cost, by the other nodes' weights."""
        return (here.by_weights + self._pull * (here.weights - self.centre)).gather(1, self._others)

    @property
    def usable(self) -> bool:
        """Whether all windows can be integrated from here."""
        return self._at.usable

    @property
    def noise(self) -> float:
        """Variance of the residuals, in units of the scale; what is fitted takes its degrees of freedom."""
        here = self._at
        fitted = here.starts.numel() + int(self._free.sum()) + len(here.by_parameters)
        return 2 * here.loss / max(here.states.numel() - fitted, 1)

    @property
    def states(self) -> Tensor:
        """The trajectories that the model explains the windows by."""
        return self._at.states

    @property
    def found(self) -> Tensor:
        """The weights."""
        return self._at.weights

    def posterior(self, sweeps: int) -> Edges:
        """The weights' posterior, by the curvature here and the residuals' variance, over all local models, too."""
        here, found = self._at, self._curvature_at(self._at, parameters=True)
        assert found.local is not None
        assert found.mixed is not None
        assert found.following is not None
        noise, rows = self.noise, found.rows
        rows.diagonal(dim1=1, dim2=2).add_(RIDGE * rows.diagonal(dim1=1, dim2=2).mean(1)[:, None])
        # One more step from here, by all weights: those that are held at zero are judged, too.
        slope = (here.by_weights.gather(1, self._others) - self._followed(found.across, here.by_starts)).double()
        step = -torch.linalg.solve(rows, slope.unsqueeze(-1))[..., 0]
        best = here.weights.gather(1, self._others).double() + step
        own = (here.by_parameters - torch.einsum("wkcp,wkc->p", found.following, here.by_starts)).double()
        own = own + torch.einsum("kjp,kj->p", found.mixed, step)
        floor = torch.diag(1e-9 * found.local.diagonal().max() + 1e-6 * found.local.diagonal())
        shared = Shared(*((part / noise).cpu().numpy() for part in (found.local + floor, found.mixed, own)))
        return sparse_posterior((rows / noise).cpu().numpy(), best.cpu().numpy(), shared=shared, sweeps=sweeps)

    def _followed(self, across: Tensor, by_starts: Tensor) -> Tensor:
        return torch.einsum("wkcj,wkc->kj", across, by_starts)

    def _start_steps(self, found: Curvature, here: _Point, rows: Tensor) -> Tensor:
        """How the starts move when the weights move so."""
        starts = -torch.einsum("wkcd,wkd->wkc", found.starts, here.by_starts)
        return starts - torch.einsum("wkcj,kj->wkc", found.across, rows)

    def _moved(self, here: _Point, starts: Tensor, rows: Tensor) -> _Point:
        return self._point(here.starts + starts, here.weights.scatter_add(1, self._others, rows))

    def _held(self, rows: Tensor) -> Tensor:
        """The curvature with a small ridge, in which weights that are not allowed do not move."""
        both = self._free[:, :, None] & self._free[:, None, :]
        mean = rows.diagonal(dim1=1, dim2=2).mean(1)[:, None]
        held = rows * both
        held.diagonal(dim1=1, dim2=2).add_(torch.where(self._free, RIDGE * mean + self._pull, mean))
        return held

    def _curvature_at(self, here: _Point, *, parameters: bool) -> Curvature:
        windows = self.windows
        return curvature(
            self.model,
            here.weights,
            here.states,
            windows.scale,
            interval=windows.interval,
            coupled=windows.coupled,
            drive=windows.drive_at_samples,
            stride=self._stride,
            kept=self._kept,
            parameters=parameters,
        )

    def _point(self, starts: Tensor, weights: Tensor) -> _Point:
        loss, states, by_starts, by_weights, by_parameters = window_gradients(self.model, weights, starts, self.windows)
        parameters = [p.detach().clone() for p in self.model.parameters()]
        errors = ((states - self.windows.observed) / self.windows.scale).square().sum((1, 3))
        return _Point(loss, states, starts, weights, parameters, by_starts, by_weights, by_parameters, errors)

    def _set(self, parameters: list[Tensor], step: Tensor | None = None) -> None:
        """Set the local model's parameters, a step away where one is given."""
        begin = 0
        with torch.no_grad():
            for own, base in zip(self.model.parameters(), parameters, strict=True):
                own.copy_(base)
                if step is not None:
                    own.add_(step[begin : begin + own.numel()].view_as(own).to(own))
                begin += own.numel()
