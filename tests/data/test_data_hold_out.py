import numpy as np
import pytest
import torch

from beyondprop.data import hold_out, image_set


def numbered(labels):
    """Images that carry their own index."""
    return image_set(np.arange(len(labels), dtype=np.float32)[:, None], np.asarray(labels))


def indices(part):
    return part.images.flatten().long().tolist()


UNEVEN = np.random.default_rng(0).permutation([0] * 50 + [1] * 30 + [2] * 17 + [3] * 3)


@pytest.mark.parametrize("count", [4, 5, 10, 37, 50, 96])
def test_parts_are_disjoint_stratified_and_whole(count):
    base = numbered(UNEVEN)
    rest, held = hold_out(base, count, seed=3)
    assert len(held) == count
    assert sorted(indices(rest) + indices(held)) == list(range(100))
    for part in (rest, held):
        assert indices(part) == sorted(indices(part))
        assert part.labels.tolist() == UNEVEN[indices(part)].tolist()
        assert (part.classes, part.name) == (4, "user")
        assert set(part.labels.tolist()) == {0, 1, 2, 3}
    if 10 <= count <= 50:  # elsewhere the one image that each class must have weighs more than its share
        share = torch.bincount(held.labels) / torch.tensor([50, 30, 17, 3])
        assert ((share * torch.tensor([50, 30, 17, 3]) - count * torch.tensor([0.5, 0.3, 0.17, 0.03])).abs() < 1).all()


def test_even_classes_are_divided_evenly():
    _, held = hold_out(numbered(np.arange(60) % 6), 12, seed=0)
    assert torch.bincount(held.labels).tolist() == [2] * 6


def test_the_seed_alone_decides():
    base = numbered(UNEVEN)
    state = torch.get_rng_state()
    np.random.seed(1)  # noqa: NPY002
    first = indices(hold_out(base, 20, seed=5)[1])
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(9)
    assert indices(hold_out(base, 20, seed=5)[1]) == first
    assert indices(hold_out(base, 20, seed=6)[1]) != first
    torch.set_rng_state(state)
    hold_out(base, 20, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_image_can_be_held_out():
    base = numbered([0, 0, 0, 1, 1, 1])
    assert {i for seed in range(50) for i in indices(hold_out(base, 2, seed=seed)[1])} == set(range(6))


def test_classes_without_images_do_not_count():
    base = image_set(np.zeros((4, 1), np.float32), [0, 0, 7, 7], classes=10)
    assert [part.labels.tolist() for part in hold_out(base, 2, seed=0)] == [[0, 7], [0, 7]]


@pytest.mark.parametrize(
    ("count", "seed", "what"),
    [
        (0, 0, "count must be at least 1"),
        (-3, 0, "count must be at least 1"),
        (3, 0, "count must lie in 4..96, not 3"),
        (97, 0, "count must lie in 4..96, not 97"),
        (100, 0, "not 100"),
        (10.0, 0, "count must be a whole number"),
        (10, -1, "seed must be at least 0"),
        (10, None, "seed must be a whole number"),
    ],
)
def test_bad_count_or_seed(user_error, count, seed, what):
    with user_error(what):
        hold_out(numbered(UNEVEN), count, seed=seed)


def test_class_of_one_image(user_error):
    with user_error("class 2 has one image"):
        hold_out(numbered([0, 0, 1, 1, 2]), 3, seed=0)
