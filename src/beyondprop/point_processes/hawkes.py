"""Exponential Hawkes processes by maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from beyondprop.checks import check_number, check_whole
from beyondprop.data.events import PADDING
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.point_processes.process import (
    EventModel,
    Likelihood,
    Outlook,
    at_targets,
    outlook_of,
    quadrature,
    targets_of,
)
from beyondprop.solver import Solver

CHUNK = 2048  # targets of which predictions are made at a time: each has nodes times marks intensities


class HawkesMLE(EventModel, Solver):
    r"""Multivariate Hawkes process with exponential kernels (Hawkes, 1971), fitted by maximum likelihood.

    .. math:: \lambda_m(t) = \mu_m + \sum_{t_i < t} \sum_d \alpha_{m, m_i, d}\, \beta_d\, e^{-\beta_d (t - t_i)} ,

    so that :math:`\sum_d \alpha_{m, k, d}` events of kind m follow directly from one of kind k. For given decays the
    likelihood is concave in the rest; L-BFGS with bounds at 0 finds its maximum. With `fit_decays` they are moved as
    well, from where they are given.

    Args:
        classes: Number of marks.
        mean_gap: Of the training events, in the data's unit.
        longest_gap: Likewise.
        decays: The :math:`\beta_d`, for times in mean gaps; at least one.
        fit_decays: Whether they are fitted.
        iterations: Most of L-BFGS.

    Attributes:
        base: :math:`\mu`, shape (marks,), events in a mean gap.
        excitation: :math:`\alpha`, shape (marks, marks, decays): of the event that follows, of the event before.
        decay: :math:`\beta`, shape (decays,).

    Raises:
        UserError: There is no decay, or one is not above 0.
    """

    base: Tensor
    excitation: Tensor
    decay: Tensor

    def __init__(
        self,
        classes: int,
        *,
        mean_gap: float = 1.0,
        longest_gap: float = 100.0,
        decays: Sequence[float] = (2.0,),
        fit_decays: bool = False,
        iterations: int = 500,
    ) -> None:
        super().__init__(classes, mean_gap, longest_gap)
        if not decays:
            raise UserError("give at least one decay, such as decays=(2.0,)")
        check_number(**{f"decay {n}": value for n, value in enumerate(decays, 1)}, above=True)
        check_whole(1, iterations=iterations)
        self.fit_decays, self.iterations = fit_decays, iterations
        self.register_buffer("base", torch.full((classes,), 1 / classes))
        self.register_buffer("excitation", torch.zeros(classes, classes, len(decays)))
        self.register_buffer("decay", torch.tensor([float(value) for value in decays]))
        self._taken: list[tuple[Tensor, Tensor]] = []

    def begin(self, part: str) -> None:
        """Forget the events of an unfinished fit."""
        del part
        self._taken = []

    def absorb(self, x: Tensor, y: Tensor, part: str) -> None:
        """Keep a batch: the likelihood is evaluated on all of them, again and again."""
        del part
        self.check_events(x, y)
        self._taken.append((x, y))

    def conclude(self, part: str) -> None:
        """Maximise the likelihood, and forget the events."""
        del part
        taken, self._taken = self._taken, []
        marks, decays = self.classes, len(self.decay)
        target = torch.cat([targets_of(y) for _, y in taken]).double()
        gap, mark = target[:, 0] / self.scale.double(), target[:, 1].long()
        count = int((mark >= 0).sum())
        if count == 0:
            raise UserError("there is no event to fit to: all targets are ends of sequences")

        def features(decay: Tensor) -> tuple[Tensor, Tensor]:
            state = torch.cat([at_targets(self._states(x.double(), decay), y) for x, y in taken])
            left = torch.exp(-gap.unsqueeze(1) * decay).unsqueeze(1)
            return (state * left * decay).flatten(1), (state * (1 - left)).sum(0)

        fixed = None if self.fit_decays else features(self.decay.double())
        time, own = gap.sum(), mark.clamp(min=0).unsqueeze(1)

        def cost(parameters: Tensor) -> Tensor:
            base, excitation, logarithm = parameters.split((marks, marks * marks * decays, len(parameters) - taken_up))
            alpha = excitation.view(marks, marks, decays)
            kept, gone = features(logarithm.exp()) if fixed is None else fixed
            rates = (base + kept @ alpha.flatten(1).T).gather(1, own).squeeze(1)
            hazard = base.sum() * time + (alpha.sum(0) * gone).sum()
            return (hazard - torch.where(mark >= 0, torch.log(rates), torch.zeros_like(rates)).sum()) / count

        taken_up = marks + marks * marks * decays
        frequency = torch.bincount(mark[mark >= 0], minlength=marks).double() / gap.sum()
        begin = [0.5 * frequency, torch.full((taken_up - marks,), 0.5 / (marks * decays), dtype=torch.double)]
        if self.fit_decays:
            begin.append(self.decay.double().log())
        least = [1e-9] * marks + [0.0] * (taken_up - marks) + [-10.0] * (decays if self.fit_decays else 0)
        most = [None] * taken_up + [10.0] * (decays if self.fit_decays else 0)
        found = minimize(
            _with_gradient(cost, target.device),
            torch.cat([part.cpu() for part in begin]).clamp(min=torch.tensor(least)).numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(least, most, strict=True)),
            options={"maxiter": self.iterations, "maxfun": 2 * self.iterations, "ftol": 1e-12, "gtol": 1e-7},
        )
        if not np.isfinite(found.x).all() or not np.isfinite(found.fun):
            raise NonFiniteError("the likelihood of the events is not finite: check the data")
        solution = torch.from_numpy(found.x).to(self.base)
        self.base.copy_(solution[:marks])
        self.excitation.copy_(solution[marks:taken_up].view_as(self.excitation))
        if self.fit_decays:
            self.decay.copy_(solution[taken_up:].exp())

    def likelihood(self, x: Tensor, y: Tensor) -> Likelihood:
        """As `EventModel.likelihood`."""
        target = targets_of(y)
        gap, mark = target[:, 0] / self.scale, target[:, 1]
        state = at_targets(self._states(x, self.decay), y)
        now = self.intensities(state, gap.unsqueeze(1)).squeeze(1)
        hazard = self.cumulative(state, gap.unsqueeze(1)).squeeze(1)
        seen = mark >= 0
        total = torch.log(now.sum(1))
        own = torch.log(now.gather(1, mark.long().clamp(min=0).unsqueeze(1)).squeeze(1))
        return Likelihood((total - torch.log(self.scale)) * seen - hazard, (own - total) * seen, hazard)

    def outlook(self, x: Tensor, y: Tensor) -> Outlook:
        """As `EventModel.outlook`, by quadrature."""
        nodes, weights = quadrature(self.horizon)
        parts = [
            outlook_of(
                self.cumulative(state, nodes),
                self.intensities(state, nodes),
                (nodes, weights),
                self.cumulative(state, self.horizon.view(1)).squeeze(1),
                self.horizon,
            )
            for state in at_targets(self._states(x, self.decay), y).split(CHUNK)
        ]
        gap, marks = (torch.cat(part) for part in zip(*parts, strict=True))
        return Outlook(gap * self.scale, marks)

    def intensities(self, state: Tensor, after: Tensor) -> Tensor:
        """Of each mark, in events a mean gap.

        Args:
            state: Shape (n, marks, decays): how much of the events of each kind is left after the last one.
            after: Time since then in mean gaps, shape (nodes,) or (n, nodes).

        Returns:
            Shape (n, nodes, marks).
        """
        excited = torch.einsum("mkd,nkd->nmd", self.excitation * self.decay, state)
        left = torch.exp(-after.unsqueeze(-1) * self.decay).expand(len(state), -1, -1)
        return self.base + torch.einsum("nmd,ngd->ngm", excited, left)

    def cumulative(self, state: Tensor, after: Tensor) -> Tensor:
        """The intensity of all marks, integrated from the last event on; arguments as `intensities`, (n, nodes)."""
        offspring = torch.einsum("mkd,nkd->nd", self.excitation, state)
        gone = -torch.expm1(-after.unsqueeze(-1) * self.decay).expand(len(state), -1, -1)
        return self.base.sum() * after + torch.einsum("nd,ngd->ng", offspring, gone)

    def _states(self, x: Tensor, decay: Tensor) -> Tensor:
        """After each event, what is left of those of each kind; shape (N, length, marks, decays)."""
        kinds = torch.arange(self.classes, device=x.device)
        there = x[..., 1] != PADDING
        codes = (x[..., 1:] == kinds) & there.unsqueeze(2)
        return decayed_sums(x[..., 0] / self.scale.to(x.dtype), codes.to(x.dtype), decay.to(x.dtype))


def decayed_sums(gaps: Tensor, values: Tensor, decay: Tensor) -> Tensor:
    r"""The recursion :math:`R_i = v_i + e^{-\beta g_i} R_{i-1}` in as many steps as the length has binary digits.

    After s steps each place holds the sum over the last :math:`2^s` events; another step adds that of the events before
    them, decayed by the time in between. All exponents are negative and all terms positive: nothing cancels.

    Args:
        gaps: g, shape (N, length); the first one of a row does not count.
        values: v, shape (N, length, marks).
        decay: :math:`\beta`, shape (decays,).

    Returns:
        Shape (N, length, marks, decays).
    """
    sums = values.unsqueeze(3).expand(*values.shape, len(decay))
    apart, span = gaps, 1
    while span < gaps.shape[1]:
        left = torch.exp(-apart[:, span:, None, None] * decay)
        sums = torch.cat((sums[:, :span], sums[:, span:] + left * sums[:, :-span]), 1)
        apart = torch.cat((apart[:, :span], apart[:, span:] + apart[:, :-span]), 1)
        span *= 2
    return sums


def _with_gradient(
    cost: Callable[[Tensor], Tensor], device: torch.device
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """A cost as scipy wants it."""

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            parameters = torch.from_numpy(point.copy()).to(device).requires_grad_()
            value = cost(parameters)
            (gradient,) = torch.autograd.grad(value, parameters)
        return float(value), gradient.cpu().numpy().astype(np.float64)

    return evaluate
