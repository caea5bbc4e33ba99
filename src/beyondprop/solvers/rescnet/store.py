"""The samples of a fit and what the layers so far make of them, in memory or on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

Place = Literal["memory", "disk"]


class SampleStore:
    """Samples in an order of their own, which depends on what they are and not on how they came.

    A fit that goes on after an interruption reads its data again, perhaps in another order, and yet finds sample n
    where it was; and the first samples are a random part of all.

    Args:
        place: `"memory"`, or `"disk"`: files in the folder for temporary files that nothing else can see, of which the
            system keeps in memory what there is room for.

    Attributes:
        images: Samples in their order, once it is closed.
        labels: Likewise.
        digest: A number of 64 bits for all samples and labels.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.images = self.labels = torch.empty(0)
        self.digest = torch.tensor(0)

    def add(self, x: Tensor, y: Tensor, dtype: torch.dtype | None = None) -> None:
        """Take in a batch, shapes (batch, ...) and (batch,); `dtype` is that in which samples are kept."""
        kept = self.room(x.shape, dtype or x.dtype, x.device)
        kept.copy_(x)
        self._parts.append((kept, y.clone(), fingerprints(x, y)))

    def close(self) -> None:
        """Put all that was taken in into its order."""
        prints = torch.cat([prints for _, _, prints in self._parts])
        order = prints.argsort(stable=True)
        self.digest = prints.sum()  # of all samples, however they came
        first = self._parts[0][0]
        self.labels = torch.cat([y for _, y, _ in self._parts])[order]
        self.images = self.room((len(order), *first.shape[1:]), first.dtype, first.device)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        start = 0
        for x, _, _ in self._parts:
            self.images[place[start : start + len(x)]] = x
            start += len(x)
        self._parts = []

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """An empty tensor in the store's place; on disk only for the CPU."""
        size = torch.Size(shape).numel()
        if self.place == "memory" or torch.device(device).type != "cpu" or size == 0:
            return torch.empty(shape, dtype=dtype, device=device)
        with tempfile.TemporaryDirectory(prefix="beyondprop-") as folder:  # the file lives on while it is mapped
            return torch.from_file(str(Path(folder) / "maps"), shared=True, size=size, dtype=dtype).view(shape)

    def __len__(self) -> int:
        return len(self.labels)


def fingerprints(x: Tensor, y: Tensor) -> Tensor:
    """A number of 64 bits for each sample and its label, the same wherever it stands."""
    bits = x.flatten(1).double().view(torch.int64)
    generator = torch.Generator().manual_seed(0x5EED)
    low, high = -(2**62), 2**62
    factors = torch.randint(low, high, (bits.shape[1] + 1,), generator=generator).to(x.device) | 1
    mixed = (bits ^ (bits >> 29)) * factors[:-1]
    found = (mixed ^ (mixed >> 32)).sum(dim=1) + y * factors[-1]
    return found ^ (found >> 31)
