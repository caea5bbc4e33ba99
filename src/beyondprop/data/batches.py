"""Batches of an image set: shuffled, augmented and normalised by tensor operations on the device."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from beyondprop.data.augmentation import crop_flip, cutout, draw_crop_flip, draw_cutout, mirror
from beyondprop.data.sets import ImageSet, SequenceSet, whole
from beyondprop.data.statistics import Statistics
from beyondprop.errors import DataError

AUGMENTATIONS = ("none", "flip", "crop-flip", "crop-flip-cutout")


class Batches:
    """An iterable of `(x, y)`; the set stays on the device as it is, and one batch at a time becomes floating point.

    Batch `i` of epoch `e` is a function of `seed`, `e` and `i` alone, whatever was read before: `epoch(e, start=i)`
    goes on in the middle of an epoch with the very same bits. Iterating gives epoch 0, then 1, and so on.

    Args:
        image_set: The images; moved to `device` whole.
        batch_size: Images a batch; the last may be smaller.
        shuffle: Whether every epoch has a new random order.
        seed: Of order and augmentation, at least 0.
        augment: `"none"`; or `"flip"`: a horizontal flip with probability 1/2, drawn for each image; or `"crop-flip"`:
            zero-padding by 4 pixels and a random crop as well; or `"crop-flip-cutout"`: with a black rectangle, a
            quarter of the image in height and width, at a random place on top.
        normalise: Whether to subtract the mean and divide by the standard deviation, per channel (a constant channel is
            only centred). Without it, pixels are scaled to 0..1 where the set says what their largest value is.
        statistics: Mean and deviation; by default those of `image_set`. For test images give the training set's.
            Sequences have none: they are not normalised.
        device: Where the batches are made; by default where the set is.
        dtype: Floating-point type of `x`.
        channels_last: Whether `x` has torch's channels-last memory format (images only).
        drop_last: Whether to leave out a smaller last batch.

    Raises:
        DataError: An argument is out of range, or does not fit the set.

    >>> from beyondprop import data
    >>> batches = Batches(data.load("digits").train, 128, shuffle=True)
    >>> x, y = next(iter(batches))
    >>> len(batches), tuple(x.shape), y.dtype
    (12, (128, 1, 8, 8), torch.int64)
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        augment: Literal["none", "flip", "crop-flip", "crop-flip-cutout"] = "none",
        normalise: bool = True,
        statistics: Statistics | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        drop_last: bool = False,
    ) -> None:
        self.batch_size = whole(batch_size, "batch_size", at_least=1)
        self.seed = whole(seed, "seed", at_least=0)
        if augment not in AUGMENTATIONS:
            raise DataError(f"augment must be one of {', '.join(AUGMENTATIONS)}, not {augment!r}")
        if augment != "none" and image_set.images.ndim != 4:
            raise DataError(f"augment {augment!r} needs images, but {image_set.name} holds feature vectors; use 'none'")
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise DataError(f"dtype must be a floating-point type such as torch.float32, not {dtype}")
        if len(image_set) == 0:
            raise DataError(f"{image_set.name}: the set is empty; give at least one image")
        if drop_last and len(image_set) < self.batch_size:
            raise DataError(
                f"batch_size {batch_size} with drop_last leaves no batch of {len(image_set)} images; lower it"
            )
        self.image_set = image_set if device is None else image_set.to(device)
        self.shuffle, self.augment, self.drop_last = shuffle, augment, drop_last
        self.dtype, self.channels_last = dtype, channels_last and image_set.images.ndim == 4
        normalise = normalise and not isinstance(image_set, SequenceSet)
        self.statistics = (statistics or Statistics.of(image_set)) if normalise else None
        # Narrow types are rounded once, at the end.
        self._compute_dtype = dtype if dtype in {torch.float32, torch.float64} else torch.float32
        if self.statistics is not None:
            self._slope, self._intercept = self._affine(self.statistics)
        self._next_epoch = 0

    def __len__(self) -> int:
        whole_batches, remainder = divmod(len(self.image_set), self.batch_size)
        return whole_batches + (remainder > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self._next_epoch
        self._next_epoch += 1
        return self.epoch(epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch.

        Args:
            epoch: Its number, from 0.
            start: Number of the first batch to give, `0..len(self)`; those before it are not computed.

        Raises:
            DataError: A number is out of range.
        """
        epoch, start = whole(epoch, "epoch", at_least=0), whole(start, "start", at_least=0)
        if start > len(self):
            raise DataError(f"start must lie in 0..{len(self)} (the batches of an epoch), not {start}")
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        current = self.image_set.of_epoch(epoch) if self.shuffle else self.image_set
        images, labels = current.images, current.labels
        order = torch.arange(len(labels))
        if self.shuffle:
            order = torch.randperm(len(labels), generator=self._generator(epoch, 0))
        order = order.to(labels.device)
        for index in range(start, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            x = images.index_select(0, chosen)
            yield self._finish(self._augmented(x, epoch, index)), labels.index_select(0, chosen)

    def _augmented(self, x: Tensor, epoch: int, index: int) -> Tensor:
        if self.augment == "none":
            return x
        generator = self._generator(epoch, 1 + index)
        if self.augment == "flip":
            return mirror(x, torch.randint(2, (len(x),), generator=generator).to(x.device))
        x = crop_flip(x, draw_crop_flip(len(x), generator).to(x.device))
        if self.augment == "crop-flip-cutout":
            x = cutout(x, draw_cutout(len(x), x.shape[2:], generator).to(x.device))
        return x

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        """Always the CPU's, so that devices agree; stream 0 is the order, stream 1 + i belongs to batch i."""
        words = np.random.SeedSequence(self.seed, spawn_key=(epoch, stream)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]))

    def _affine(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Slope and intercept that scale to 0..1 and normalise in one pass: `(x / high - mean) / std`."""
        images = self.image_set.images
        if statistics.mean.shape != images.shape[1:2] or statistics.std.shape != images.shape[1:2]:
            raise DataError(
                f"statistics are for {statistics.mean.numel()} channels, "
                f"but {self.image_set.name} has {images.shape[1]}; take those of its own training set"
            )
        divisor = torch.where(statistics.std > 0, statistics.std, 1.0)
        shape = (1, -1) + (1,) * (images.ndim - 2)
        pair = (1 / (divisor * (self.image_set.high or 1)), -statistics.mean / divisor)
        slope, intercept = (v.reshape(shape).to(dtype=self._compute_dtype).to(images.device) for v in pair)
        return slope, intercept

    def _finish(self, x: Tensor) -> Tensor:
        """Pixels to the numbers that a network reads."""
        x = x.to(self._compute_dtype)
        if self.statistics is not None:
            x = torch.addcmul(self._intercept, x, self._slope)
        elif self.image_set.high is not None:
            x = x / self.image_set.high
        x = x.to(self.dtype)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
