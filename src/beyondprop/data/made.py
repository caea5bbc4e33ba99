"""Small data sets that are computed, not read."""

import torch

from beyondprop.data.sets import ImageSet, Splits

REPEATS = 256  # training samples: every pattern as often as fits


def parity(bits: int) -> Splits:
    """All patterns of some bits, and whether an odd number of them is set; two bits are exclusive or.

    Args:
        bits: At least 1, at most 8.

    Returns:
        For training 256 samples, every pattern equally often; for testing every pattern once. Images are float32
        `(N, bits)` of zeros and ones.

    >>> parity(2).test.images.tolist(), parity(2).test.labels.tolist()
    ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    numbers = torch.arange(2**bits)
    patterns = (numbers[:, None] >> torch.arange(bits - 1, -1, -1)) & 1
    labels, name = patterns.sum(dim=1) % 2, f"parity-{bits}"
    images, times = patterns.float(), REPEATS // len(patterns)
    return Splits(
        ImageSet(images.repeat(times, 1), labels.repeat(times), 2, name, None), ImageSet(images, labels, 2, name, None)
    )
