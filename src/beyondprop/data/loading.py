"""Named data sets as tensors."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from beyondprop.data.files import ensure, locate
from beyondprop.data.made import letters, parity
from beyondprop.data.readers import Bytes, check_labels, damaged, read_cifar, read_digits, read_idx
from beyondprop.data.registry import Entry, File, find
from beyondprop.data.sets import ImageSet, Splits
from beyondprop.data.splitting import hold_out
from beyondprop.data.yin_yang import yin_yang

MADE: dict[str, Callable[[], Splits]] = {
    "xor": partial(parity, 2),
    "parity-4": partial(parity, 4),
    "nist7x7": letters,
    "yin-yang": yin_yang,
}


def load(name: str, *, download: bool = True) -> Splits:
    """Loads a named data set whole into memory.

    Args:
        name: One of `names()`, or one of those that are computed, `"xor"`, `"parity-4"`, `"nist7x7"`
            (`beyondprop.data.made`) and `"yin-yang"`.
        download: Whether files that are absent may be fetched from their publisher.

    Returns:
        Training and test images, uint8 `(N, C, H, W)`. CIFAR-100 has its 100 fine labels. The digits have no test split
        of their own: 360 of the 1797 images are set aside, stratified by class, the same ones always.

    Raises:
        DataError: The name is unknown, or a file is missing, cannot be downloaded, or is damaged.

    >>> train, test = load("digits")
    >>> tuple(train.images.shape), len(test), train.high
    ((1437, 1, 8, 8), 360, 16)
    """
    if name in MADE:
        return MADE[name]()
    entry = find(name)
    ensure(name, download=download)
    if entry.layout == "csv":
        (file,) = entry.train
        images, labels = read_digits(locate(name, file), name)
        _check_count(name, file, images)
        return Splits(*hold_out(_image_set(name, entry, images, labels), 360, seed=0))
    read = _read_idx if entry.layout == "idx" else _read_cifar
    return Splits(*(_image_set(name, entry, *read(name, entry, files)) for files in (entry.train, entry.test)))


def _read_idx(name: str, entry: Entry, files: tuple[File, ...]) -> tuple[Bytes, Bytes]:
    images_file, labels_file = files
    images = read_idx(locate(name, images_file), entry.shape[1:], name)
    labels = read_idx(locate(name, labels_file), (), name)
    _check_count(name, images_file, images)
    _check_count(name, labels_file, labels)
    check_labels(locate(name, labels_file), labels, entry.classes, name)
    return images[:, None], labels


def _read_cifar(name: str, entry: Entry, files: tuple[File, ...]) -> tuple[Bytes, Bytes]:
    parts = []
    for file in files:
        parts.append(read_cifar(locate(name, file), entry.classes, name))
        _check_count(name, file, parts[-1][0])
    if len(parts) == 1:
        return parts[0]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _check_count(name: str, file: File, items: Bytes) -> None:
    """A file cut between two items looks whole: only the published count tells."""
    if len(items) != file.count:
        raise damaged(locate(name, file), f"{len(items)} items where the published file has {file.count}", name)


def _image_set(name: str, entry: Entry, images: Bytes, labels: Bytes) -> ImageSet:
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels).long(), entry.classes, name, entry.high)
