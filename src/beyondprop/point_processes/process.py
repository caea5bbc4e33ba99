"""What every model of marked events is: likelihoods of the next event, an outlook on it, and how both are measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.data.events import NO_TARGET, PADDING, EventSet
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rule import Rule, descend

NODES = 64  # of the quadrature that predicts from intensities
SMALLEST = 1e-30


class Likelihood(NamedTuple):
    """Of each target given what came before it; shape (targets,).

    Attributes:
        gap: Log-density of the time since the event before, in nats and the data's unit; where a sequence ends without
            an event, the log-probability that there was none.
        mark: Log-probability of the mark, given the time; 0 where a sequence ends.
        hazard: The intensity of all marks, integrated over the gap: unit exponential if the model is true.
    """

    gap: Tensor
    mark: Tensor
    hazard: Tensor


class Outlook(NamedTuple):
    """On the next event, given what came before it alone.

    Attributes:
        gap: Expected time until then, shape (targets,), in the data's unit.
        marks: Log-probability of each mark, shape (targets, marks).
    """

    gap: Tensor
    marks: Tensor


class EventModel(nn.Module, ABC):
    """A model of marked events; a batch is that of `beyondprop.data.events.EventSet`.

    x, of shape (N, length, 2), is each event's time since the one before it, and its mark; y, of the same shape, the
    time to the next event and its mark after each. Models think in mean gaps of the training set, so that another unit
    of time gives the same fit; what they tell is in the data's own unit.

    Args:
        classes: Number of marks.
        mean_gap: Of the training events, the unit in which the model thinks.
        longest_gap: Of the training events: predictions from intensities look no further.
    """

    classifies: ClassVar[bool] = False
    scale: Tensor
    horizon: Tensor

    def __init__(self, classes: int, mean_gap: float = 1.0, longest_gap: float = 100.0) -> None:
        super().__init__()
        check_whole(1, classes=classes)
        check_number(mean_gap=mean_gap, longest_gap=longest_gap, above=True)
        self.classes = classes
        self.register_buffer("scale", torch.tensor(float(mean_gap)))
        self.register_buffer("horizon", torch.tensor(float(longest_gap) / float(mean_gap)))

    @classmethod
    def for_events(cls, events: EventSet, **options: Any) -> Self:
        """Make the model for the marks and in the unit of a training set.

        Args:
            events: The training pieces.
            **options: The model's own.
        """
        return cls(events.classes, mean_gap=events.mean_gap, longest_gap=events.longest_gap, **options)

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Refuse: it predicts events, and classifies nothing."""
        raise UnsupportedNetworkError(str(cls.supports_classifier(network, example)))

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """The reason why there is none."""
        del network, example
        return f"{cls.__name__} predicts events in time and trains no classifier: make it by {cls.__name__}.for_events"

    @abstractmethod
    def likelihood(self, x: Tensor, y: Tensor) -> Likelihood:
        """Likelihoods of the targets in y, in the order of `targets_of(y)`."""

    @abstractmethod
    def outlook(self, x: Tensor, y: Tensor) -> Outlook:
        """Outlooks on the targets in y, of which only the places are looked at."""

    def forward(self, x: Tensor) -> Tensor:
        """Predict what follows each piece's last event.

        Returns:
            Shape (N, 1 + marks): the expected time until the next event, and the log-probability of each mark.
        """
        self.check_events(x)
        length = (x[..., 1] != PADDING).sum(1)
        y = torch.full_like(x, NO_TARGET)
        y[torch.arange(len(x), device=x.device), length - 1] = 0
        found = self.outlook(x, y)
        return torch.cat((found.gap.unsqueeze(1), found.marks), 1)

    def own_figures(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Measure the model on batches of pieces.

        Returns:
            `nll` and `gap_nll`, negative log-likelihoods an event of time and mark, and of the time alone, in nats and
            the data's unit, what follows a sequence's last event included; `gap_rmse` of the expected gap;
            `mark_accuracy` of the likeliest mark, its time unknown; `loss`, the same as `nll`; and `count` of events.
        """
        names = ("nll", "gap_nll", "square", "mark_accuracy", "count")
        sums: Tensor | None = None
        for x, y in batches:
            self.check_events(x, y)
            gap, mark = targets_of(y).unbind(1)
            seen = mark >= 0
            found, outlook = self.likelihood(x, y), self.outlook(x, y)
            rows = (
                -(found.gap + found.mark),
                -found.gap,
                (outlook.gap - gap).square() * seen,
                (outlook.marks.argmax(1) == mark) & seen,
                seen,
            )
            part = torch.stack([row.double().sum() for row in rows])
            sums = part if sums is None else sums + part
        if sums is None or not sums[-1]:
            raise UserError("there is nothing to evaluate: the batches hold no event that is a target")
        means = dict(zip(names, (sums / sums[-1]).tolist(), strict=True))
        kept = {name: means[name] for name in ("nll", "gap_nll", "mark_accuracy")}
        return {**kept, "gap_rmse": math.sqrt(means["square"]), "loss": means["nll"], "count": int(sums[-1])}

    def check_events(self, x: Tensor, y: Tensor | None = None) -> None:
        """Refuse what are no pieces of event sequences.

        Raises:
            UserError: The shape or a mark is wrong, or a gap is negative.
            NonFiniteError: A gap is NaN or infinite.
        """
        for name, part in (("x", x),) if y is None else (("x", x), ("y", y)):
            if part.ndim != 3 or part.shape[2] != 2 or part.shape != x.shape or not part.is_floating_point():
                raise UserError(f"{name} must be float pairs of gap and mark, (N, length, 2), not {tuple(part.shape)}")
            if not part.isfinite().all():
                raise NonFiniteError(f"{name}, the input, holds NaN or infinity: clean the data before training")
            if part[..., 0].min() < 0 and name == "x":
                raise UserError("x holds a negative gap: sort the events by time")
            if part[..., 1].max() >= self.classes:
                raise UserError(f"marks must lie below {self.classes}, not {int(part[..., 1].max())}: check `classes`")


class PointProcess(EventModel, Rule):
    """An `EventModel` that is trained by back-propagation of the mean negative log-likelihood of its targets.

    Args:
        classes: As `EventModel`.
        mean_gap: As `EventModel`.
        longest_gap: As `EventModel`.
    """

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Differentiate the loss of a batch."""
        del phase
        self.check_events(x, y)
        loss = self.loss(x, y)
        descend(loss, "the events (the last layer's output)")
        return loss

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean negative log-likelihood of a target."""
        found = self.likelihood(x, y)
        return -(found.gap + found.mark).mean()


def targets_of(y: Tensor) -> Tensor:
    """The targets of a batch, one behind the other, shape (targets, 2): gap and mark."""
    return y[y[..., 1] > NO_TARGET]


def at_targets(values: Tensor, y: Tensor) -> Tensor:
    """What stands at the targets' places, shape (targets, ...)."""
    return values[y[..., 1] > NO_TARGET]


def of_mark(log_marks: Tensor, mark: Tensor) -> Tensor:
    """The log-probability of the mark that was seen, shape (targets,), from that of each; 0 where none was seen."""
    chosen = log_marks.gather(1, mark.long().clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(mark >= 0, chosen, torch.zeros_like(chosen))


def gauss_legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes in 0..1 and weights of Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return like.new_tensor((nodes + 1) / 2), like.new_tensor(weights / 2)


def quadrature(horizon: Tensor, count: int = NODES) -> tuple[Tensor, Tensor]:
    """Nodes and weights on 0..horizon, dense near 0, where intensities change fast; in mean gaps."""
    u, weights = gauss_legendre(count, horizon)
    stretch = torch.log1p(30 * horizon)
    grown = torch.expm1(stretch)
    return horizon * torch.expm1(stretch * u) / grown, weights * horizon * stretch * torch.exp(stretch * u) / grown


def outlook_of(
    cumulative: Tensor, intensities: Tensor, rule: tuple[Tensor, Tensor], at_horizon: Tensor, horizon: Tensor
) -> Outlook:
    """The outlook of intensities, by quadrature; both times are in mean gaps.

    The expected gap is that of an event before the horizon: some intensities die out, and then there may be none.

    Args:
        cumulative: The intensity of all marks integrated up to each node, shape (targets, nodes).
        intensities: Of each mark at each node, shape (targets, nodes, marks).
        rule: Nodes and weights, as `quadrature` gives them.
        at_horizon: The integral up to the horizon, shape (targets,).
        horizon: Up to where it is looked.
    """
    density = rule[1] * torch.exp(-cumulative)
    none = torch.exp(-at_horizon)
    gap = (density.sum(1) - horizon * none) / (1 - none).clamp(min=SMALLEST)
    marks = torch.einsum("ng,ngm->nm", density, intensities)
    return Outlook(gap.clamp(min=0), torch.log((marks / marks.sum(1, keepdim=True)).clamp(min=SMALLEST)))
