"""Goodness of fit by rescaling time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import kstest
from torch import Tensor

from beyondprop.errors import UserError
from beyondprop.point_processes.process import EventModel, targets_of
from beyondprop.rule import evaluating


@dataclass(frozen=True)
class Goodness:
    """How far rescaled gaps are from unit exponential.

    Attributes:
        gaps: The rescaled gaps, in the order of the events.
        distance: Kolmogorov-Smirnov: the largest difference between the distribution functions.
        p_value: Of a larger one, were the model true; parameters that were fitted to the same events make it larger.
    """

    gaps: np.ndarray
    distance: float
    p_value: float


def rescaled_gaps(model: EventModel, batches: Iterable[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Gaps on the clock that runs by the model's intensity: under a true model they are unit exponential.

    (Brown et al., Neural Computation 14, 2002.) What runs off after a sequence's last event is added to the next gap:
    an exponential clock has no memory, and leaving it out would favour short gaps.

    Args:
        model: Trained.
        batches: Pieces in the order of the events, as `EventSequences.pieces` makes them, not shuffled.

    Returns:
        float64 (events,).
    """
    parts = []
    with evaluating(model), torch.no_grad():
        for x, y in batches:
            hazard, seen = model.likelihood(x, y).hazard, targets_of(y)[:, 1] >= 0
            parts.append(torch.stack((hazard.double(), seen.double())).cpu().numpy())
    if not parts:
        raise UserError("there is nothing to rescale: the batches are empty")
    hazard, seen = np.concatenate(parts, 1)
    return np.diff(np.cumsum(hazard)[seen > 0], prepend=0.0)


def goodness_of_fit(model: EventModel, batches: Iterable[tuple[Tensor, Tensor]]) -> Goodness:
    """Rescale and compare; arguments as `rescaled_gaps`."""
    gaps = rescaled_gaps(model, batches)
    found = kstest(gaps, "expon")
    return Goodness(gaps, float(found.statistic), float(found.pvalue))
