"""Mean and standard deviation of a training set, for normalising."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from beyondprop.data.sets import DescribedSet, ImageSet


@dataclass(frozen=True, eq=False)
class Statistics:
    """What normalising subtracts and divides by, per channel (per feature for `(N, D)`).

    Attributes:
        mean: float64 `(C,)` on the CPU, in units of `high` (pixels scaled to 0..1).
        std: Likewise; the population's (divided by the number of values), 0 for a channel that is constant.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, image_set: ImageSet) -> "Statistics":
        """Computes them over all images and positions; give it the training set, also for batches of test images.

        >>> from beyondprop import data
        >>> Statistics.of(data.load("digits").train).mean.round(decimals=2)
        tensor([0.3100], dtype=torch.float64)
        """
        if isinstance(image_set, DescribedSet):
            return cls(image_set.mean, image_set.std)
        # numpy, because its one thread stays fast on the many small chunks also where the processors are busy.
        images = image_set.images.cpu().numpy()
        channels = images.shape[1]
        # Sums of differences from the first value: a constant channel gives exactly 0, and a mean far above the
        # deviation costs no digits. float64 on the CPU is exact for integers, and not every accelerator has it.
        shift = images[0].reshape(channels, -1)[:, :1].astype(np.float64)
        total, squares = np.zeros(channels), np.zeros(channels)
        step = 1 + 2**17 // images[0].size  # a chunk stays in the processor's cache
        for start in range(0, len(images), step):
            chunk = images[start : start + step]
            difference = chunk.reshape(len(chunk), channels, -1) - shift
            total += difference.sum(axis=(0, 2))
            squares += np.square(difference).sum(axis=(0, 2))
        count = images.size // channels
        scale = image_set.high or 1
        variance = np.maximum(squares / count - (total / count) ** 2, 0)
        mean, std = (shift[:, 0] + total / count) / scale, np.sqrt(variance) / scale
        return cls(torch.from_numpy(mean), torch.from_numpy(std))
