"""Data sets that are computed."""

import itertools

import pytest
import torch

from beyondprop import data
from beyondprop.data.made import LETTERS, letters, parity


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_parity_is_that_of_every_pattern(bits):
    splits = parity(bits)
    expected = list(itertools.product([0.0, 1.0], repeat=bits))
    assert [tuple(row) for row in splits.test.images.tolist()] == expected
    assert splits.test.labels.tolist() == [sum(row) % 2 for row in expected]
    assert len(splits.train) == 256
    assert torch.equal(splits.train.images.unique(dim=0), splits.test.images.unique(dim=0))
    assert torch.equal(splits.train.labels, splits.train.images.sum(dim=1).long() % 2)
    assert splits.train.images.sum() == 256 * bits / 2


def test_they_are_loaded_by_name():
    assert data.load("xor").train.images.shape == (256, 2)
    assert data.load("parity-4").test.images.shape == (16, 4)
    assert data.load("nist7x7").train.classes == 4


def test_letters_are_all_places_with_up_to_two_pixels_turned():
    splits = letters()
    images, labels = (torch.cat(parts) for parts in zip(*((s.images, s.labels) for s in splits), strict=True))
    assert images.shape == (44_136, 1, 7, 7)
    assert labels.bincount().tolist() == [11_034] * 4
    distances = torch.full((len(images),), 99.0)
    for label, rows in enumerate(LETTERS.values()):
        shape = torch.tensor([[float(pixel == "#") for pixel in row] for row in rows])
        own = labels == label
        for down, right in itertools.product(range(3), repeat=2):
            clean = torch.zeros(7, 7)
            clean[down : down + 5, right : right + 5] = shape
            far = (images[own, 0] - clean).abs().sum(dim=(1, 2))
            assert (far == 0).sum() == 1
            distances[own] = torch.minimum(distances[own], far)
    assert distances.max() == 2
    assert len(splits.test) == 4414
    assert torch.equal(letters().test.images, splits.test.images)
