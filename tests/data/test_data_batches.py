import itertools

import numpy as np
import pytest
import torch

from beyondprop.data import Batches, ImageSet, Statistics, image_set, load
from beyondprop.data.batches import AUGMENTATIONS


def numbered(count):
    """Feature vectors that carry their own index; the label is the index modulo 7."""
    return image_set(np.arange(count, dtype=np.float32)[:, None], np.arange(count) % 7)


def pictures(count=23, high=255, seed=0):
    images = torch.randint(0, high + 1, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return ImageSet(images.to(torch.uint8), torch.arange(count) % 5, 5, "pictures", high)


def order(batches):
    return [int(i) for x, _ in batches for i in x.flatten()]


def same(left, right):
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


@pytest.mark.parametrize(("count", "size"), [(23, 5), (20, 5), (3, 5), (7, 1), (1, 1)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_index_exactly_once_an_epoch(count, size, shuffle):
    batches = Batches(numbered(count), size, shuffle=shuffle, normalise=False)
    for epoch in range(3):
        seen = list(batches.epoch(epoch))
        assert [len(y) for _, y in seen] == [size] * (count // size) + [count % size] * (count % size > 0)
        assert len(batches) == len(seen)
        assert sorted(order(seen)) == list(range(count))
        assert all((y == x[:, 0].long() % 7).all() for x, y in seen)
        assert shuffle or order(seen) == list(range(count))


@pytest.mark.parametrize(("count", "expected"), [(23, 4), (20, 4), (5, 1)])
def test_drop_last_leaves_out_the_smaller_batch(count, expected):
    batches = Batches(numbered(count), 5, shuffle=True, drop_last=True)
    assert [len(y) for _, y in batches.epoch(0)] == [5] * expected
    assert len(batches) == expected


def test_orders_differ_by_epoch_and_seed():
    base = numbered(100)
    orders = {
        (seed, epoch): tuple(order(Batches(base, 10, shuffle=True, seed=seed, normalise=False).epoch(epoch)))
        for seed in (0, 1, 2**40)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == len(orders)


def test_iterating_walks_through_the_epochs():
    batches = Batches(pictures(), 4, shuffle=True, augment="crop-flip")
    for epoch in range(3):
        assert same(batches, Batches(pictures(), 4, shuffle=True, augment="crop-flip").epoch(epoch))
    next(iter(batches))  # an epoch that is broken off counts
    assert same(batches, batches.epoch(4))


@pytest.mark.parametrize("shuffle", [True, False])
def test_going_on_in_mid_epoch_gives_the_same_bits(shuffle):
    options = {"shuffle": shuffle, "seed": 3, "augment": "crop-flip-cutout"}
    uninterrupted = list(Batches(pictures(), 4, **options).epoch(2))
    for start in range(len(uninterrupted) + 1):
        torch.manual_seed(start)  # the global generator has no say
        assert same(Batches(pictures(), 4, **options).epoch(2, start=start), uninterrupted[start:])


def test_the_global_generators_are_left_alone():
    state = torch.get_rng_state()
    list(Batches(pictures(), 4, shuffle=True, augment="crop-flip-cutout"))
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_differs_by_epoch_batch_and_image():
    one = pictures(1)
    twenty = one.subset([0] * 20)
    batches = Batches(twenty, 10, shuffle=False, augment="crop-flip", normalise=False)
    (a, _), (b, _) = batches.epoch(0)
    (c, _), (d, _) = batches.epoch(1)
    for left, right in itertools.combinations((a, b, c, d), 2):
        assert not torch.equal(left, right)
    assert len({tuple(x.flatten().tolist()) for x in a}) > 5


def test_flip_mirrors_every_other_image_and_does_nothing_else():
    many = pictures(1).subset([0] * 1000)
    batches = Batches(many, 1000, shuffle=False, augment="flip", normalise=False)
    plain = next(iter(Batches(many, 1000, shuffle=False, normalise=False)))[0]
    (found, _), (other, _) = next(batches.epoch(0)), next(batches.epoch(1))
    mirrored = (found == plain.flip(3)).flatten(1).all(dim=1)
    assert (mirrored | (found == plain).flatten(1).all(dim=1)).all()
    assert abs(int(mirrored.sum()) - 500) < 5 * 250**0.5  # five standard deviations
    assert not torch.equal(found, other)


def test_augmentation_pads_with_black_before_normalising():
    white = ImageSet(torch.full((64, 1, 6, 6), 255, dtype=torch.uint8), torch.zeros(64).long(), 1, "white", 255)
    statistics = Statistics(torch.tensor([0.5]).double(), torch.tensor([0.25]).double())
    batches = Batches(white, 64, shuffle=False, augment="crop-flip", statistics=statistics)
    x, _ = next(iter(batches))
    assert x.unique().tolist() == pytest.approx([-2, 2])


def test_cutout_comes_upon_the_same_crops():
    white = ImageSet(torch.full((64, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(64).long(), 1, "white", 255)
    crops, cut = (
        next(iter(Batches(white, 64, shuffle=False, augment=augment, normalise=False)))[0]
        for augment in ("crop-flip", "crop-flip-cutout")
    )
    lost = (crops != cut).sum(dim=(1, 2, 3))
    assert (cut <= crops).all()
    assert lost.max() == 4  # a quarter of 8 pixels, squared
    assert 0.5 < lost.float().mean() < 4  # much of a small crop is black already
    assert len({tuple(x.flatten().tolist()) for x in crops - cut}) > 20


@pytest.mark.parametrize("high", [255, 16])
def test_normalisation_against_numpy(high):
    base = pictures(high=high)
    scaled = base.images.numpy().astype(np.float64) / high
    expected = (scaled - scaled.mean((0, 2, 3), keepdims=True)) / scaled.std((0, 2, 3), keepdims=True)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)):
        x = torch.cat([x for x, _ in Batches(base, 4, shuffle=False, dtype=dtype)])
        assert x.dtype == dtype
        np.testing.assert_allclose(x.double().numpy(), expected, atol=tolerance)


def test_narrow_types_are_rounded_once():
    exact, narrow = (Batches(pictures(), 23, shuffle=False, dtype=d) for d in (torch.float32, torch.bfloat16))
    assert torch.equal(next(iter(exact))[0].bfloat16(), next(iter(narrow))[0])


def test_test_images_are_normalised_by_the_training_set():
    train, test = pictures(seed=1), pictures(9, seed=2)
    test.images.div_(3, rounding_mode="floor")
    statistics = Statistics.of(train)
    x, _ = next(iter(Batches(test, 9, shuffle=False, statistics=statistics)))
    mean, std = (v.float().reshape(1, 3, 1, 1) for v in (statistics.mean, statistics.std))
    torch.testing.assert_close(x, (test.images / 255 - mean) / std)


def test_without_normalising_pixels_lie_in_0_to_1():
    for high in (255, 16):
        base = pictures(high=high)
        x, _ = next(iter(Batches(base, 23, shuffle=False, normalise=False)))
        assert torch.equal(x, base.images.float() / high)
        assert (x.min(), x.max()) == (0, 1)


def test_float_images_are_not_scaled():
    values = torch.randn(9, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    base = image_set(values, [0] * 9)
    assert torch.equal(next(iter(Batches(base, 9, shuffle=False, normalise=False)))[0], values)
    x, _ = next(iter(Batches(base, 9, shuffle=False)))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(2))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_channel_is_only_centred(value):
    base = pictures()
    base.images[:, 1] = value
    x, _ = next(iter(Batches(base, 23, shuffle=False)))
    assert torch.isfinite(x).all()
    assert x[:, 1].abs().max() < 1e-6


def test_digits_have_constant_pixels_as_features():
    train = load("digits").train
    flat = image_set(train.images.flatten(1), train.labels)
    x, _ = next(iter(Batches(flat, len(flat), shuffle=False)))
    assert torch.isfinite(x).all()


def test_a_batch_shares_no_memory_with_the_set():
    base = numbered(8)
    for x, y in Batches(base, 8, shuffle=False, normalise=False):
        x.fill_(-1)
        y.fill_(-1)
    assert base.images.flatten().tolist() == list(range(8))
    assert base.labels.min() == 0


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_channels_last(augment):
    plain, last = (
        next(iter(Batches(pictures(), 6, shuffle=True, augment=augment, channels_last=c)))[0] for c in (False, True)
    )
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)
    x, _ = next(iter(Batches(numbered(4), 2, shuffle=False, channels_last=True)))
    assert x.shape == (2, 1)


def test_device_moves_the_set():
    batches = Batches(pictures(), 6, shuffle=True, device="meta", augment="crop-flip")
    x, y = next(iter(batches))
    assert (x.device.type, y.device.type, x.shape) == ("meta", "meta", (6, 3, 8, 8))


BAD = {
    "batch_size zero": ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    "batch_size negative": ({"batch_size": -4}, "batch_size must be at least 1, not -4"),
    "batch_size no whole number": ({"batch_size": 2.5}, "batch_size must be a whole number"),
    "batch_size missing": ({"batch_size": None}, "batch_size must be a whole number"),
    "seed negative": ({"seed": -1}, "seed must be at least 0"),
    "augment unknown": (
        {"augment": "crop"},
        "augment must be one of none, flip, crop-flip, crop-flip-cutout, not 'crop'",
    ),
    "augment None": ({"augment": None}, "augment must be one of"),
    "dtype of integers": ({"dtype": torch.int32}, "dtype must be a floating-point type"),
    "dtype by name": ({"dtype": "float32"}, "dtype must be a floating-point type"),
    "nothing left": ({"batch_size": 24, "drop_last": True}, "batch_size 24 with drop_last"),
    "statistics of another set": ({"statistics": Statistics(torch.zeros(1), torch.ones(1))}, "statistics are for 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(user_error, case):
    options, what = BAD[case]
    with user_error(what):
        Batches(pictures(), **{"batch_size": 4, "shuffle": True, **options})


def test_features_cannot_be_cropped(user_error):
    with user_error("augment 'crop-flip' needs images", "user"):
        Batches(numbered(4), 2, shuffle=False, augment="crop-flip")


def test_empty_set(user_error):
    base = pictures()
    empty = ImageSet(base.images[:0], base.labels[:0], 5, "nothing", 255)
    with user_error("nothing: the set is empty"):
        Batches(empty, 2, shuffle=False)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [((-1,), "epoch"), ((0.5,), "epoch"), ((0, -1), "start"), ((0, 7), "start must lie in 0..6"), ((0, "x"), "start")],
)
def test_bad_epoch_or_start_is_told_at_once(user_error, arguments, what):
    with user_error(what):
        Batches(pictures(), 4, shuffle=True).epoch(*arguments)
