"""Setting images aside for model selection."""

import numpy as np

from beyondprop.data.sets import ImageSet, SequenceSet, whole
from beyondprop.errors import DataError


def hold_out(image_set: ImageSet, count: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Sets images aside, stratified by class: every class keeps its share in both parts, up to rounding.

    Of sequences the last ones are set aside: in a series they are the latest.

    Args:
        image_set: The set to divide.
        count: How many images are set aside. Each class that occurs must have at least one image on either side.
        seed: Chooses the images; the same seed chooses the same ones on every device.

    Returns:
        The rest and the held-out images, both in the order of the original.

    Raises:
        DataError: `count` or `seed` is no such number, or some class would have no image on one side.

    >>> from beyondprop import data
    >>> rest, held_out = hold_out(data.load("digits").train, 100, seed=0)
    >>> len(rest), len(held_out)
    (1337, 100)
    """
    count, seed = whole(count, "count", at_least=1), whole(seed, "seed", at_least=0)
    if isinstance(image_set, SequenceSet):
        kept = len(image_set) - count
        if kept < 1:
            raise DataError(f"{image_set.name}: count must lie in 1..{len(image_set) - 1} sequences, not {count}")
        return image_set.subset(range(kept)), image_set.subset(range(kept, len(image_set)))
    labels = image_set.labels.cpu().numpy()
    present, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < 2:
        lone = present[sizes.argmin()]
        raise DataError(f"{image_set.name}: class {lone} has one image, so it cannot be on both sides; drop it")
    smallest, largest = len(present), len(labels) - len(present)
    if not smallest <= count <= largest:
        raise DataError(
            f"{image_set.name}: count must lie in {smallest}..{largest}, not {count}: "
            f"each of the {len(present)} classes needs an image on either side"
        )
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label, quota in zip(present, _quotas(sizes, count), strict=True):
        held[generator.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return image_set.subset(np.flatnonzero(~held)), image_set.subset(np.flatnonzero(held))


def _quotas(sizes: np.ndarray, count: int) -> np.ndarray:
    """Largest-remainder apportionment of `count` among classes of these sizes, each within `1..size-1`."""
    shares = sizes * count / sizes.sum()
    quotas = np.clip(np.floor(shares).astype(int), 1, sizes - 1)
    while quotas.sum() < count:
        quotas[np.argmax(np.where(quotas < sizes - 1, shares - quotas, -np.inf))] += 1
    while quotas.sum() > count:
        quotas[np.argmin(np.where(quotas > 1, shares - quotas, np.inf))] -= 1
    return quotas
