"""Sequences of marked events, and the pieces of them that models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beyondprop.data.sets import SequenceSet, whole
from beyondprop.errors import DataError

CENSORED, NO_TARGET = -1, -2  # in the place of a target's mark
PADDING = -1  # in the place of an input's mark


@dataclass(frozen=True, eq=False)
class EventSequences:
    """Sequences of events, one behind the other. `event_sequences` makes one from arrays and checks them.

    Attributes:
        times: float64 `(events,)`, ascending within a sequence, in the data's own unit.
        marks: int64 `(events,)`, each in `0..len(labels)-1`.
        offsets: int64 `(sequences + 1,)`: sequence i is `offsets[i]:offsets[i + 1]`.
        ends: float64 `(sequences,)`: until when each was observed; its last event's time where nothing is known.
        labels: The marks' names.
        name: For messages.
    """

    times: np.ndarray
    marks: np.ndarray
    offsets: np.ndarray
    ends: np.ndarray
    labels: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def classes(self) -> int:
        """Number of marks."""
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> EventSequences:
        """Some of the sequences, in the order of their indices."""
        chosen = np.asarray(indices, np.int64)
        if len(chosen) == 0:
            raise DataError(f"{self.name}: no sequence is chosen; give at least one")
        sizes = np.diff(self.offsets)[chosen]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        rows = np.repeat(self.offsets[chosen] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return replace(self, times=self.times[rows], marks=self.marks[rows], offsets=offsets, ends=self.ends[chosen])

    def in_unit(self, unit: float) -> EventSequences:
        """The same with times divided by `unit`."""
        return replace(self, times=self.times / unit, ends=self.ends / unit)

    def spread(self, resolution: float, *, seed: int) -> EventSequences:
        """Events whose times are known to a tick, each moved to a random place within it.

        Densities of times that repeat on a grid have no bound: a model could put all its mass on the grid. Spread
        evenly, the mean log-density is a lower bound on the log-probability of the ticks, less the tick's logarithm.

        Args:
            resolution: The tick, in the data's unit.
            seed: Of the places.
        """
        drawn = np.random.default_rng(seed).random(len(self.times)) * resolution
        times = self.times + drawn
        owner = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        order = np.lexsort((times, owner))
        last = np.maximum.reduceat(times, self.offsets[:-1])
        return replace(self, times=times[order], marks=self.marks[order], ends=np.maximum(self.ends, last))

    def divide(self, share: float) -> tuple[EventSequences, EventSequences]:
        """Keep the last sequences apart for testing; of a single one its last events.

        Args:
            share: Of the sequences (or events) that stay for training, above 0 and below 1; each part has one at least.

        Raises:
            DataError: The share is out of range, or there is one event in all.
        """
        if not 0 < share < 1:
            raise DataError(f"{self.name}: the share that is trained on must lie between 0 and 1, not {share}")
        count = len(self) if len(self) > 1 else len(self.times)
        if count < 2:
            raise DataError(f"{self.name} holds {count} events: a part of them to train on and one to test on need two")
        cut = min(max(round(share * count), 1), count - 1)
        if len(self) > 1:
            return self.subset(range(cut)), self.subset(range(cut, count))
        parts = (slice(cut), self.times[cut - 1 : cut]), (slice(cut, None), self.ends)
        early, late = (
            replace(
                self,
                times=self.times[rows],
                marks=self.marks[rows],
                offsets=np.array([0, len(self.times[rows])]),
                ends=ends,
            )
            for rows, ends in parts
        )
        return early, late

    def pieces(self, *, history: int, targets: int = 1, first: int = 1) -> EventSet:
        """Cut the sequences into pieces of one length: the targets, and the events that stand before them.

        Args:
            history: Most events that the first target of a piece can look back on; the last one can look back on
                `history + targets - 1`.
            targets: Of a piece.
            first: Events at a sequence's beginning that are no targets, at least 1.

        Raises:
            DataError: A number is too small, or no sequence is long enough.
        """
        history, targets = whole(history, "history", at_least=1), whole(targets, "targets", at_least=1)
        first = whole(first, "first", at_least=1)
        sizes, begins = np.diff(self.offsets), self.offsets[:-1]
        survives = self.ends > np.append(self.times, 0)[self.offsets[1:] - 1]  # time without events at the end
        count = np.where(sizes >= first, sizes - first + survives, 0)
        chunks = -(-count // targets)
        owner = np.repeat(np.arange(len(self)), chunks)
        if len(owner) == 0:
            raise DataError(
                f"{self.name}: no sequence has more than {first} events; lower `first`, or give longer ones"
            )
        number = np.arange(len(owner)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        low = first + number * targets  # index of a piece's first target in its sequence
        high = np.minimum(low + targets, first + count[owner])
        start = np.maximum(low - history, 0)
        place = start[:, None] + np.arange(history + targets - 1)
        here = place <= (high - 2)[:, None]
        row = np.where(here, begins[owner][:, None] + place, 0)
        size = sizes[owner][:, None]
        gaps = np.diff(self.times, prepend=self.times[:1])
        gaps[begins[sizes > 0]] = 0.0
        x = np.stack((np.where(here, gaps[row], 0), np.where(here, self.marks[row], PADDING)), -1)
        after = np.minimum(row + 1, len(self.times) - 1)
        is_last = place + 1 == size
        gap = np.where(is_last, self.ends[owner][:, None], self.times[after]) - self.times[row]
        target = here & (place + 1 >= low[:, None])
        mark = np.where(is_last, CENSORED, self.marks[after])
        y = np.stack((np.where(target, gap, 0), np.where(target, mark, NO_TARGET)), -1)
        if (same := y[..., 0][target] <= 0).any():
            event = int(row[target][same][0])
            number = int(np.searchsorted(self.offsets, event, "right")) - 1
            raise DataError(
                f"{self.name}: sequence {number} has two events at time {self.times[event]:g}, which has no density; "
                "name the tick of the clock as the resolution (--resolution)"
            )
        inputs, outputs = (torch.from_numpy(part).float() for part in (x, y))
        return EventSet(inputs, outputs, self.classes, self.name, None)


@dataclass(frozen=True, eq=False)
class EventSet(SequenceSet):
    """Pieces of event sequences, whole on one device. What reads image sets reads these too.

    Attributes:
        images: float32 `(N, length, 2)`: each event's time since the one before it, and its mark; a piece that is
            shorter is filled up with the mark -1.
        labels: float32 `(N, length, 2)`: after each event the time to the next and its mark; the mark -1 says that
            until then none was seen, -2 that this is no target.
        classes: Number of marks.
    """

    @property
    def events(self) -> int:
        """Targets that are events."""
        return int((self.labels[..., 1] >= 0).sum())

    @property
    def mean_gap(self) -> float:
        """The mean time to the next event, over targets that are events; in the data's unit."""
        seen = self.labels[..., 1] >= 0
        return float(self.labels[..., 0][seen].double().mean())

    @property
    def longest_gap(self) -> float:
        """The longest time that a target took."""
        return float(self.labels[..., 0].max())


def event_sequences(
    times: Any,
    marks: Any,
    offsets: Any = None,
    *,
    ends: Any = None,
    labels: Sequence[str] | int | None = None,
    name: str = "user",
) -> EventSequences:
    """Make sequences of events from arrays, after checking them.

    Args:
        times: `(events,)`, ascending within a sequence, in any unit.
        marks: Integers `(events,)`, each at least 0.
        offsets: Integers `(sequences + 1,)`: sequence i is `offsets[i]:offsets[i + 1]`; by default all are one.
        ends: `(sequences,)`, until when each was observed; by default until its last event.
        labels: The marks' names, or their number; by default as many as the largest mark tells.
        name: For messages.

    Raises:
        DataError: Lengths do not fit, a time is not finite or earlier than the one before it, or a mark is none.

    >>> events = event_sequences([0.5, 1.0, 0.25, 2.0], [0, 1, 1, 0], [0, 2, 4])
    >>> len(events), events.classes, events.ends.tolist()
    (2, 2, [1.0, 2.0])
    """
    t, m = _numbers(times, "times", name), np.asarray(marks)
    if t.ndim != 1 or m.shape != t.shape or len(t) == 0:
        raise DataError(f"{name}: give as many marks as times, one each, and at least one; not {m.shape} and {t.shape}")
    if m.dtype.kind not in "iu":
        raise DataError(f"{name}: marks are {m.dtype}; convert them to integers")
    o = np.array([0.0, len(t)]) if offsets is None else _numbers(offsets, "offsets", name)
    if (o % 1).any():
        raise DataError(f"{name}: offsets are places in `times`; give whole numbers")
    o = o.astype(np.int64)
    if o.ndim != 1 or len(o) < 2 or o[0] != 0 or o[-1] != len(t) or (np.diff(o) < 1).any():
        raise DataError(f"{name}: offsets must rise from 0 to {len(t)}, the number of events; no sequence is empty")
    if not np.isfinite(t).all():
        raise DataError(f"{name}: event {int(np.argmin(np.isfinite(t)))} has a time that is NaN or infinite")
    owner = np.repeat(np.arange(len(o) - 1), np.diff(o))
    falls = (np.diff(t) < 0) & (owner[1:] == owner[:-1])
    if falls.any():
        raise DataError(f"{name}: event {int(falls.argmax()) + 1} is earlier than the one before it; sort by time")
    if labels is None:
        labels = int(m.max()) + 1
    known = tuple(str(n) for n in range(labels)) if isinstance(labels, int) else tuple(labels)
    if m.min() < 0 or m.max() >= len(known):
        raise DataError(
            f"{name}: marks must lie in 0..{len(known) - 1}, not {int(m.min() if m.min() < 0 else m.max())}"
        )
    last = t[o[1:] - 1]
    e = last if ends is None else _numbers(ends, "ends", name)
    if e.shape != last.shape or not np.isfinite(e).all() or (e < last).any():
        raise DataError(f"{name}: give one end a sequence, none before its last event")
    return EventSequences(t, m.astype(np.int64), o, e, known, name)


def _numbers(values: Any, what: str, name: str) -> NDArray[np.float64]:
    """An array in double precision."""
    try:
        found = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name}: {what} are no array of numbers: {error}") from error
    if found.dtype.kind not in "fiu":
        raise DataError(f"{name}: {what} are {found.dtype}; give numbers, such as seconds")
    return found.astype(np.float64)


def targets_and_last(events: EventSet) -> tuple[torch.Tensor, torch.Tensor]:
    """The mark of the event before each target, (targets,), and the targets, (targets, 2): gap and mark."""
    places = events.labels[..., 1] > NO_TARGET
    return events.images[..., 1][places], events.labels[places]
