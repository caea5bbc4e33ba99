"""A self-attentive marked process."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_whole
from beyondprop.data.events import PADDING
from beyondprop.errors import UserError
from beyondprop.point_processes.process import (
    Likelihood,
    Outlook,
    PointProcess,
    at_targets,
    gauss_legendre,
    outlook_of,
    quadrature,
    targets_of,
)

INTEGRATION = 12  # nodes between two events; softplus of a line is smooth
CHUNK = 2048
LEAST = 1e-6  # of an intensity, in events a mean gap


class THP(PointProcess):
    r"""Transformer Hawkes process (Zuo et al., arXiv 2002.09291), with its likelihood put right.

    A transformer that sees no later events has the state h after each; until the next one

    .. math:: \lambda_m(t) = \mathrm{softplus}(a_m (t - t_i) + w_m^\top h_i + b_m) .

    The paper's code evaluates the intensity at an event by the state that has seen the event itself, and integrates
    that of the kind alone that occurred. Here the state is that of the event before, and the integral, by
    Gauss-Legendre quadrature, that of all kinds. Times are counted from the last event in mean gaps, where the paper
    divides by the time of the last event. Predictions follow from the intensities: there are no heads of their own.

    Args:
        classes: Number of marks.
        mean_gap: Of the training events, in the data's unit.
        longest_gap: Likewise.
        hidden: Width of the layers, even.
        layers: Their number.
        heads: Of attention; they divide the width.
        dropout: In the layers.
    """

    def __init__(
        self,
        classes: int,
        *,
        mean_gap: float = 1.0,
        longest_gap: float = 100.0,
        hidden: int = 32,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(classes, mean_gap, longest_gap)
        check_whole(1, hidden=hidden, layers=layers, heads=heads)
        if hidden % (2 * heads):
            raise UserError(f"hidden must divide by twice the heads, {2 * heads}, not {hidden}")
        self.embedding = nn.Embedding(classes, hidden)
        layer = nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.from_gap = nn.Linear(1, hidden)
        self.to_level = nn.Linear(hidden, classes)
        self.slope = nn.Parameter(torch.full((classes,), -0.1))
        rates = torch.exp(-math.log(1e3) * torch.arange(hidden // 2) / (hidden // 2))
        self.register_buffer("rates", rates)

    rates: Tensor

    def likelihood(self, x: Tensor, y: Tensor) -> Likelihood:
        """As `EventModel.likelihood`."""
        level = self._levels(x, y)
        gap, mark = targets_of(y).unbind(1)
        seen, gap = mark >= 0, gap / self.scale
        now = self._intensities(level, gap.unsqueeze(1)).squeeze(1)
        hazard = self._cumulative(level, gap.unsqueeze(1)).squeeze(1)
        total = torch.log(now.sum(1))
        own = torch.log(now.gather(1, mark.long().clamp(min=0).unsqueeze(1)).squeeze(1))
        return Likelihood((total - torch.log(self.scale)) * seen - hazard, (own - total) * seen, hazard)

    def outlook(self, x: Tensor, y: Tensor) -> Outlook:
        """As `EventModel.outlook`, by quadrature."""
        nodes, weights = quadrature(self.horizon)
        ends = torch.cat((nodes, self.horizon.view(1)))
        # From node to node; each stretch between two of them by two nodes of its own.
        u, share = gauss_legendre(2, nodes)
        width = torch.diff(ends, prepend=ends.new_zeros(1))
        within = (ends - width).unsqueeze(1) + width.unsqueeze(1) * u
        parts = []
        for level in self._levels(x, y).split(CHUNK):
            rate = self._intensities(level, within.flatten()).sum(2).view(len(level), -1, 2)
            cumulative = ((rate * share).sum(2) * width).cumsum(1)
            parts.append(
                outlook_of(
                    cumulative[:, :-1],
                    self._intensities(level, nodes),
                    (nodes, weights),
                    cumulative[:, -1],
                    self.horizon,
                )
            )
        gap, marks = (torch.cat(part) for part in zip(*parts, strict=True))
        return Outlook(gap * self.scale, marks)

    def _levels(self, x: Tensor, y: Tensor) -> Tensor:
        """Levels w h + b after the last event before each target, shape (targets, marks)."""
        gaps, marks = x.unbind(2)
        scaled = gaps / self.scale
        angles = scaled.cumsum(1).unsqueeze(2) * self.rates
        codes = self.embedding(marks.long().clamp(min=0)) + torch.cat((angles.sin(), angles.cos()), 2)
        codes = codes + self.from_gap(torch.log(scaled + 1e-3).unsqueeze(2))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        states = self.encoder(codes, mask=later, src_key_padding_mask=marks == PADDING)
        return self.to_level(at_targets(states, y))

    def _intensities(self, level: Tensor, after: Tensor) -> Tensor:
        """Of each mark, (n, nodes, marks), at times (nodes,) or (n, nodes) after the last event."""
        moved = after.unsqueeze(-1) * self.slope
        return F.softplus(level.unsqueeze(1) + moved) + LEAST

    def _cumulative(self, level: Tensor, until: Tensor) -> Tensor:
        """The intensity of all marks integrated up to times of shape (n, 1)."""
        u, weights = gauss_legendre(INTEGRATION, level)
        return (self._intensities(level, until * u).sum(2) * weights).sum(1, keepdim=True) * until
