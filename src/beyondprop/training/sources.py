"""What users give as batches, made alike: passes over the data that can begin in the middle, on the rule's device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.data import Batches
from beyondprop.errors import UserError

SAMPLE = 1000


class Source:
    """Passes over any iterable of (x, y).

    Args:
        batches: An object with `.epoch(number, start)` such as `data.Batches`; or something that can be iterated once a
            pass (a list, a DataLoader); or a function without arguments that returns an iterator (a generator
            function).
        device: Where x and y are moved.
    """

    def __init__(self, batches: Any, device: torch.device) -> None:
        self._batches, self.device = batches, device
        self._addressable = hasattr(batches, "epoch")
        self._iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._missing = SAMPLE
        if not self._addressable and not self._iterable and not callable(batches):
            raise UserError(f"batches must be an iterable of pairs (x, y), not {type(batches).__name__}")

    @property
    def length(self) -> int | None:
        """Batches in a pass, where it is known beforehand."""
        try:
            return len(self._batches)
        except TypeError:
            return None

    @property
    def generator(self) -> torch.Generator | None:
        """The generator from which a DataLoader shuffles, where it has one of its own."""
        generator = getattr(self._batches, "generator", None)
        return generator if isinstance(generator, torch.Generator) else None

    def open(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Begin a pass.

        Args:
            number: Of the pass, from 0.
            start: Number of the first batch wanted; where batches cannot be addressed, those before it are read and
                thrown away here, before the iterator is returned.

        Raises:
            UserError: A batch is no pair, or the pass has ended before `start`.
        """
        self._seen, self._missing = [], SAMPLE
        if self._addressable:
            return (self._pair(batch) for batch in self._batches.epoch(number, start))
        given = iter(self._batches if self._iterable else self._batches())
        pairs = (self._noted(self._pair(batch)) for batch in given)
        skipped = sum(1 for _ in islice(pairs, start))
        if skipped < start:
            raise UserError(f"the batches end after {skipped}, but {start} were trained on before: give the same data")
        return pairs

    def sample(self, number: int) -> Any:
        """About the first thousand samples of a pass that was opened, as batches to measure the accuracy on.

        Of `data.Batches` the first images of the set, without augmentation.
        """
        if isinstance(self._batches, Batches):
            images, given = self._batches.image_set, self._batches
            return Batches(
                images.subset(range(min(SAMPLE, len(images)))),
                given.batch_size,
                shuffle=False,
                normalise=given.statistics is not None,
                statistics=given.statistics,
                dtype=given.dtype,
                channels_last=given.channels_last,
            )
        if self._addressable and not self._seen:
            for batch in self._batches.epoch(number, 0):
                self._noted(self._pair(batch))
                if self._missing <= 0:
                    break
        return self._seen

    def _noted(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = pair
        if self._missing > 0:
            self._seen.append((x[: self._missing], y[: self._missing]))
            self._missing -= len(x)
        return pair

    def _pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:  # a tensor of two rows would unpack as well
            raise UserError(f"each batch must be a pair (x, y) of tensors, not {_describe(batch)}")
        try:
            x, y = (torch.as_tensor(part).to(self.device, non_blocking=True) for part in batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"each batch must be a pair (x, y) of tensors, not {_describe(batch)}") from error
        if x.ndim == 0 or y.ndim == 0:
            raise UserError("each batch must hold several samples, but x or y is a single number: batch the data first")
        return x, y


def device_of(rule: nn.Module) -> torch.device:
    """Where a rule's parameters are, or its buffers where it has none."""
    for tensor in (*rule.parameters(), *rule.buffers()):
        return tensor.device
    return torch.device("cpu")


def _describe(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"{len(batch)} things ({', '.join(type(part).__name__ for part in batch[:4])})"
    return type(batch).__name__
