"""Data sets that are computed."""

import itertools

import pytest
import torch

from beyondprop import data
from beyondprop.data.made import parity


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
