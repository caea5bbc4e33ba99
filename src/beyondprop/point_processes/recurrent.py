"""A recurrent marked process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beyondprop.checks import check_whole
from beyondprop.data.events import PADDING
from beyondprop.point_processes.process import (
    Likelihood,
    Outlook,
    PointProcess,
    at_targets,
    of_mark,
    outlook_of,
    quadrature,
    targets_of,
)

LEAST_GAP = 1e-3  # in mean gaps: shorter ones look the same


class RMTPP(PointProcess):
    r"""Recurrent marked temporal point process (Du et al., KDD 2016).

    An LSTM over marks and gaps has the state h after each event; until the next one

    .. math:: \lambda(t) = \exp(v^\top h + w\, (t - t_i) + b), \qquad p(\text{mark}) = \mathrm{softmax}(U h + c),

    whose integral is closed. Where w is negative the intensity dies out, and the expected gap is that of an event
    within the longest one of the training set.

    Args:
        classes: Number of marks.
        mean_gap: Of the training events, in the data's unit.
        longest_gap: Likewise.
        hidden: Length of the state.
        embedding: Length of a mark's vector.
    """

    def __init__(
        self, classes: int, *, mean_gap: float = 1.0, longest_gap: float = 100.0, hidden: int = 64, embedding: int = 16
    ) -> None:
        super().__init__(classes, mean_gap, longest_gap)
        check_whole(1, hidden=hidden, embedding=embedding)
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding + 1, hidden, batch_first=True)
        self.to_intensity, self.to_marks = nn.Linear(hidden, 1), nn.Linear(hidden, classes)
        self.slope = nn.Parameter(torch.tensor(-0.1))

    def likelihood(self, x: Tensor, y: Tensor) -> Likelihood:
        """As `EventModel.likelihood`; the mark does not depend on the time."""
        level, log_marks = self._read(x, y)
        gap, mark = targets_of(y).unbind(1)
        seen, gap = mark >= 0, gap / self.scale
        hazard = self._cumulative(level, gap)
        in_time = (level + self.slope * gap - torch.log(self.scale)) * seen - hazard
        return Likelihood(in_time, of_mark(log_marks, mark), hazard)

    def outlook(self, x: Tensor, y: Tensor) -> Outlook:
        """As `EventModel.outlook`, by quadrature."""
        level, log_marks = self._read(x, y)
        nodes, weights = quadrature(self.horizon)
        intensity = torch.exp(level.unsqueeze(1) + self.slope * nodes)
        cumulative = self._cumulative(level.unsqueeze(1), nodes)
        at_horizon = self._cumulative(level, self.horizon)
        found = outlook_of(cumulative, intensity.unsqueeze(2), (nodes, weights), at_horizon, self.horizon)
        return Outlook(found.gap * self.scale, log_marks)

    def _read(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Before each target, the log-intensity at the last event and each mark's log-probability."""
        gaps, marks = x.unbind(2)
        codes = self.embedding(marks.long().clamp(min=0)) * (marks != PADDING).unsqueeze(2)
        times = torch.log(gaps / self.scale + LEAST_GAP).unsqueeze(2)
        state = at_targets(self.lstm(torch.cat((codes, times), 2))[0], y)
        return self.to_intensity(state).squeeze(1), self.to_marks(state).log_softmax(1)

    def _cumulative(self, level: Tensor, after: Tensor) -> Tensor:
        """The integral of exp(level + w t) from 0 on; w is kept off 0, where it is 0 / 0."""
        slope = torch.where(self.slope.abs() < 1e-4, torch.full_like(self.slope, 1e-4), self.slope)
        return torch.exp(level) * torch.expm1(slope * after) / slope
