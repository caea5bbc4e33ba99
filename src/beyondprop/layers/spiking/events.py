"""Spikes of a batch in the order in which they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from beyondprop.layers.spiking.membrane import Membrane


@dataclass(frozen=True)
class Events:
    """All finite spike times of a batch, sample by sample in order of time.

    Attributes:
        times: Shape (samples, events), infinite behind the last one of a sample.
        places: Of the same shape: where in the sample's flattened times the event stands.
        counts: How many events each sample has, shape (samples,).
        decays: What the time from each event to the next leaves of a potential and of a current, and its kernel, shape
            (3, samples, events - 1); in double precision on a CPU.
    """

    times: Tensor
    places: Tensor
    counts: Tensor
    decays: Tensor

    @classmethod
    def of(cls, times: Tensor, membrane: Membrane) -> Events:
        """Sort them; times that are not finite are spikes that never came.

        Args:
            times: Shape (batch, neurons, spikes).
            membrane: Of the neurons that they go to.
        """
        flat = times.detach().flatten(1).nan_to_num(torch.inf, torch.inf, torch.inf)
        counts = (flat < torch.inf).sum(1)
        longest = int(counts.max()) if len(counts) else 0
        places = _argsort(flat)[:, :longest].contiguous()
        moments = flat.gather(1, places)
        gaps = moments.diff(dim=1)
        return cls(moments, places, counts, membrane.decays(gaps.double() if gaps.device.type == "cpu" else gaps))

    @cached_property
    def by_number(self) -> Columns:
        """The same, number by number: for both sweeps of tensor operations."""
        return Columns.of(self)


@dataclass(frozen=True)
class Columns:
    """Events number by number, the samples with the most first: of number e the first `active[e]` entries count.

    Attributes:
        times: Shape (events, samples).
        places: Of the same shape.
        counts: As of the events, in the order of the columns.
        decays: Shape (3, events - 1, samples, 1), in the type of the times.
        active: How many samples have more than e events, for each e.
        order: The sample that each column is, shape (samples,).
    """

    times: Tensor
    places: Tensor
    counts: Tensor
    decays: Tensor
    active: list[int]
    order: Tensor

    @classmethod
    def of(cls, events: Events) -> Columns:
        """Turn rows into columns."""
        counts, order = events.counts.sort(descending=True)
        numbers = torch.arange(events.times.shape[1], device=counts.device)
        active = (counts[None] > numbers[:, None]).sum(1).tolist()
        times, places = (part[order].t().contiguous() for part in (events.times, events.places))
        decays = events.decays[:, order].transpose(1, 2).to(times.dtype).contiguous()[..., None]
        return cls(times, places, counts, decays, active, order)


def at_least(values: Tensor, bound: float) -> Tensor:
    """Where values reach a bound, as indices of the flattened tensor; NaN does not.

    NumPy finds few among many in a tenth of the time that torch takes on a CPU.
    """
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() >= bound))
    return (values >= bound).view(-1).nonzero().view(-1)


def _argsort(rows: Tensor) -> Tensor:
    """The order of each row; NumPy's vectorised sort takes a third of the time of torch's on a CPU."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.argsort(rows.numpy(), axis=1))
    return rows.argsort(dim=1)
