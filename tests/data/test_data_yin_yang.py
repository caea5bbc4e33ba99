"""The Yin-Yang set: samples of the published generator, in a symbol of the right areas."""

import numpy as np
import pytest
import torch

from beyondprop import data
from beyondprop.data.yin_yang import which, yin_yang
from beyondprop.errors import DataError


@pytest.fixture(scope="module")
def splits():
    return data.load("yin-yang")


def test_first_samples_are_those_of_the_published_generator(splits):
    """The first draws of NumPy's legacy generator with the published seed 42, taken by hand."""
    generator = np.random.RandomState(42)
    assert splits.train.labels[0] == generator.randint(3)
    points = [generator.rand(2) for _ in range(200)]
    inside = [p for p in points if (p[0] - 0.5) ** 2 + (p[1] - 0.5) ** 2 <= 0.25]
    x, y = next(p for p in inside if which(*p) == splits.train.labels[0])
    assert splits.train.images[0].tolist() == pytest.approx([x, y, 1 - x, 1 - y])


def test_sets_are_whole_and_balanced(splits):
    assert (len(splits.train), len(splits.test), splits.train.classes) == (5000, 1000, 3)
    for part in splits:
        shares = torch.bincount(part.labels).double() / len(part)
        assert (shares - 1 / 3).abs().max() < 0.05
        torch.testing.assert_close(part.images[:, :2] + part.images[:, 2:], torch.ones(len(part), 2))
        assert ((part.images[:, :2] - 0.5).square().sum(1) <= 0.25 + 1e-6).all()
    assert not torch.equal(splits.train.images[:1000], splits.test.images)


@pytest.mark.parametrize(
    ("point", "label"),
    [
        ((0.25, 0.5), 2),
        ((0.75, 0.55), 2),
        ((0.25, 0.7), 1),
        ((0.25, 0.35), 1),
        ((0.5, 0.9), 1),
        ((0.75, 0.7), 0),
        ((0.5, 0.1), 0),
    ],
)
def test_the_symbol(point, label):
    assert which(*point) == label


def test_halves_have_the_same_area():
    """Without the dots, yin and yang turn into each other by half a turn."""
    generator = torch.Generator().manual_seed(0)
    for x, y in torch.rand(500, 2, generator=generator).tolist():
        if (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.25 and which(x, y) != 2:
            assert which(x, y) != which(1 - x, 1 - y)


def test_sizes_are_checked(one_line):
    with one_line(DataError, "train"):
        yin_yang(train=0)
