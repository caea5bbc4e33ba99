"""Data sets that are computed."""

import itertools

import pytest
import torch

from beyondprop import data
from beyondprop.data.made import LETTERS, letters, parity, student_teacher


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


def test_a_teacher_has_the_papers_scale_at_every_depth():
    """Gain 3: E[y^2] of a layer is inputs * 9 * 2 / (inputs + outputs) * E[x^2], half of it behind a ReLU."""
    train, test = student_teacher(200, 200, train=600, test=400, width=1000, depth=1)
    x, y = torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels])
    assert x.min() > -1
    assert x.max() < 1
    assert x.square().mean() == pytest.approx(1 / 3, rel=0.02)
    hidden = 200 * 18 / 1200 / 3
    assert y.square().mean().item() == pytest.approx(1000 * 18 / 1200 * hidden / 2, rel=0.1)
    deeper = student_teacher(200, 200, train=600, test=400, width=1000, depth=2).train.labels
    assert deeper.square().mean().item() == pytest.approx(1000 * 18 / 1200 * 4.5 * hidden / 2, rel=0.15)


def test_a_teacher_without_hidden_layers_is_linear_and_one_with_them_is_not():
    for depth, linear in ((0, True), (2, False)):
        train, test = student_teacher(5, 3, train=400, test=100, width=50, depth=depth)
        weights = torch.linalg.lstsq(train.images, train.labels).solution
        error = (test.images @ weights - test.labels).square().mean() / test.labels.var()
        assert (error < 1e-8) == linear


def test_a_teacher_and_its_inputs_depend_on_the_seed_alone():
    first, same = (student_teacher(4, 2, train=6, test=3, width=8) for _ in range(2))
    other = student_teacher(4, 2, train=6, test=3, width=8, seed=1)
    assert torch.equal(first.train.labels, same.train.labels)
    assert not torch.equal(first.train.labels, other.train.labels)
    assert not torch.equal(first.train.images[:3], first.test.images)
