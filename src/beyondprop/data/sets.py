"""Image sets: what a data set is once it is in memory, and how a user's own tensors become one."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beyondprop.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images (or feature vectors), whole on one device.

    Use `image_set` to make one from tensors of your own: it checks them, this class does not.

    Attributes:
        images: uint8 `(N, C, H, W)`, or float32 of the same shape; feature vectors are `(N, D)`.
        labels: int64 `(N,)`, each in `0..classes-1`.
        classes: Number of classes.
        name: For messages and result files.
        high: Largest possible pixel value (255; 16 for the digits), by which batches scale to 0..1. None: not scaled.
    """

    images: Tensor
    labels: Tensor
    classes: int
    name: str
    high: int | None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | NDArray[Any] | Sequence[int]) -> "ImageSet":
        """The images with the given indices, in the order of the indices, as a copy.

        Args:
            indices: Integers in `0..len-1`, at least one.

        Raises:
            DataError: There are none, or they are no integers, or one is out of range.
        """
        chosen = _as_tensor(indices, "indices")
        if chosen.ndim != 1 or chosen.numel() == 0 or not _is_integer(chosen):
            raise DataError(f"indices must be a list of at least one integer, not {_describe(chosen)}")
        low, high = int(chosen.min()), int(chosen.max())
        if low < 0 or high >= len(self):
            raise DataError(f"indices must lie in 0..{len(self) - 1}, not {low if low < 0 else high}")
        chosen = chosen.to(self.labels.device, torch.int64)
        return replace(self, images=self.images.index_select(0, chosen), labels=self.labels.index_select(0, chosen))

    def of_epoch(self, epoch: int) -> "ImageSet":
        """What an epoch trains on: the set itself."""
        del epoch
        return self


@dataclass(frozen=True)
class Column:
    """A column of a file that is forecast.

    Attributes:
        name: In the file.
        mean: That was taken off, in the column's own units.
        deviation: By which it was divided then, in the same units.
        row: Of the first target, counted from 1 below the line of names; the others follow it.
    """

    name: str
    mean: float
    deviation: float
    row: int


@dataclass(frozen=True, eq=False)
class SequenceSet(ImageSet):
    """Sequences with targets at every step, or vectors with a target, whole on one device.

    What reads image sets reads these too. They come scaled, and are not normalised.

    Attributes:
        images: Inputs, float32 `(N, time, inputs)`, or `(N, inputs)`.
        labels: Targets, float32 `(N, time, outputs)`, or `(N, outputs)`.
        classes: Outputs of a step.
        redraw: Makes other inputs and targets for an epoch, from its number, so that no sequence is seen twice; None
            where there are only these.
        column: Of the user's file that the targets are taken from, or None.
        alphabet: Of the user's text, its characters in the order of their indices, or empty.
    """

    redraw: Callable[[int], tuple[Tensor, Tensor]] | None = None
    column: "Column | None" = None
    alphabet: str = ""

    def of_epoch(self, epoch: int) -> "SequenceSet":
        """These in the first epoch, fresh ones later where there is a way to draw them."""
        if self.redraw is None or epoch == 0:
            return self
        images, labels = (part[: len(self)].to(self.images.device) for part in self.redraw(epoch))
        return replace(self, images=images, labels=labels)


@dataclass(frozen=True, eq=False)
class DescribedSet(ImageSet):
    """Stands for a set that is not there: sizes and statistics are right; a sample's pixels tell its class alone.

    Attributes:
        mean: Of the set, float64 `(C,)`; see `Statistics`, whose `of` takes these.
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, described: dict[str, Any]) -> "DescribedSet":
        """Make it from its facts by name; the images take one number's memory each."""
        count, classes, shape = described["samples"], described["classes"], described["shape"]
        pixels = (torch.arange(count) % classes % 256).to(getattr(torch, described["dtype"]))
        images = pixels.view(-1, *[1] * len(shape)).expand(count, *shape)
        mean, std = (torch.tensor(described[name], dtype=torch.float64) for name in ("mean", "std"))
        return cls(images, torch.arange(count) % classes, classes, described["name"], described["high"], mean, std)


class Splits(NamedTuple):
    """A data set's training and test images."""

    train: ImageSet
    test: ImageSet


def image_set(images: Any, labels: Any, *, classes: int | None = None, name: str = "user") -> ImageSet:
    """Makes an image set from tensors, arrays or nested lists, after checking them.

    Args:
        images: uint8 or floating point, `(N, C, H, W)`, `(N, H, W)` (one channel) or `(N, D)` (features). uint8 pixels
            count as 0..255; floating point becomes float32 and is taken as it is.
        labels: Integers `(N,)`, each at least 0.
        classes: Number of classes; by default the largest label plus one.
        name: For messages and result files.

    Returns:
        The set, on the images' device. Where no conversion was needed it shares its memory with what was given.

    Raises:
        DataError: Type, shape or length is wrong, there are no images, a value is NaN or infinite, or a label is out of
            range.

    >>> image_set(torch.zeros(2, 8, 8), [0, 2]).classes
    3
    """
    x, y = _as_tensor(images, f"{name}: images"), _as_tensor(labels, f"{name}: labels")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise DataError(f"{name}: images are {_describe(x)}; convert them to uint8 (0..255) or floating point")
    if x.ndim not in {2, 3, 4}:
        raise DataError(f"{name}: images are {_describe(x)}; give (N, C, H, W), (N, H, W) or (N, D)")
    if x.numel() == 0:
        raise DataError(f"{name}: images are empty (shape {tuple(x.shape)}); give at least one")
    if not _is_integer(y):
        raise DataError(f"{name}: labels are {_describe(y)}; convert them to integers (class indices)")
    if y.ndim != 1:
        raise DataError(f"{name}: labels are {_describe(y)}; give one class index an image, shape (N,)")
    if len(x) != len(y):
        raise DataError(f"{name}: {len(x)} images but {len(y)} labels; give one label an image")
    if x.is_floating_point():
        x = x.float()
        bad = ~torch.isfinite(x).flatten(1).all(dim=1)
        if bad.any():
            first = int(bad.int().argmax())
            raise DataError(f"{name}: images hold NaN or infinite values, first in image {first}; replace or drop them")
    y = y.to(x.device, torch.int64)
    low, high = int(y.min()), int(y.max())
    count = high + 1 if classes is None else whole(classes, "classes", at_least=1)
    if low < 0 or high >= count:
        raise DataError(f"{name}: labels must lie in 0..{max(count, 1) - 1}, not {low if low < 0 else high}")
    return ImageSet(x[:, None] if x.ndim == 3 else x, y, count, name, 255 if x.dtype == torch.uint8 else None)


def whole(value: Any, argument: str, *, at_least: int) -> int:
    """An argument as an int, if it is a whole number and not too small; else `DataError` naming the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        raise DataError(f"{argument} must be a whole number of at least {at_least}, not {value!r}") from None
    if number < at_least:
        raise DataError(f"{argument} must be at least {at_least}, not {number}")
    return number


def _as_tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} must be a tensor or an array of numbers, all rows of one length")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch can neither write-protect memory nor walk through it backwards
    try:
        return torch.from_numpy(array)
    except TypeError:  # long double
        raise DataError(f"{what} are {array.dtype}, which torch does not know; convert them to float32") from None


def _is_integer(values: Tensor) -> bool:
    return not values.is_floating_point() and not values.is_complex() and values.dtype != torch.bool


def _describe(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
