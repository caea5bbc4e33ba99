"""The Yin-Yang data set of Kriener, Göltz and Petrovici (arXiv 2102.08211), drawn as they published it."""

from __future__ import annotations

import math

import numpy as np
import torch

from beyondprop.data.sets import ImageSet, Splits, whole

BIG, SMALL = 0.5, 0.1  # radius of the whole, and of the two dots
TRAIN_SEED, TEST_SEED = 42, 40  # as published; that of their validation set is 41


def yin_yang(*, train: int = 5000, test: int = 1000) -> Splits:
    """Points of a Yin-Yang symbol: is it yin, yang or a dot?

    Each sample is (x, y, 1 - x, 1 - y), with x and y in 0..1. A class is drawn first, evenly, then points until one is
    of that class; with the published generator and seeds, so that the sets are the published ones.

    Args:
        train: Training samples.
        test: Test samples.

    Returns:
        Float32 vectors `(N, 4)`; the classes are 0 (yang), 1 (yin) and 2 (dot).

    Raises:
        DataError: A number is too small.

    >>> splits = yin_yang(train=50, test=5)
    >>> splits.train.images.shape, splits.train.classes
    (torch.Size([50, 4]), 3)
    """
    return Splits(
        _draw(whole(train, "train", at_least=1), TRAIN_SEED), _draw(whole(test, "test", at_least=1), TEST_SEED)
    )


def which(x: float, y: float) -> int:
    """The class of a point."""
    right, left = math.hypot(x - 1.5 * BIG, y - BIG), math.hypot(x - 0.5 * BIG, y - BIG)
    if right < SMALL or left < SMALL:
        return 2
    return int(right <= SMALL or SMALL < left <= 0.5 * BIG or (y > BIG and right > 0.5 * BIG))


def _draw(count: int, seed: int) -> ImageSet:
    generator = np.random.RandomState(seed)  # the published samples come from this one
    values, labels = np.empty((count, 4)), np.empty(count, np.int64)
    for row in range(count):
        goal = generator.randint(3)
        while True:
            x, y = generator.rand(2) * 2.0 * BIG
            if math.hypot(x - BIG, y - BIG) <= BIG and which(x, y) == goal:
                break
        values[row], labels[row] = (x, y, 1 - x, 1 - y), goal
    return ImageSet(torch.from_numpy(values).float(), torch.from_numpy(labels), 3, "yin-yang", None)
