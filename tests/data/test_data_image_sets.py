import numpy as np
import pytest
import torch

from beyondprop.data import ImageSet, image_set


def ones(*shape):
    return np.ones(shape, np.float32)


NAN = ones(4, 3)
NAN[2, 1] = np.nan
INF = ones(4, 1, 2, 2)
INF[3, 0, 1, 1] = -np.inf
FOUR = np.arange(4)
BAD = {
    "NaN": ((NAN, FOUR), {}, "images hold NaN or infinite values, first in image 2"),
    "infinite": ((INF, FOUR), {}, "first in image 3"),
    "NaN in half precision": ((torch.tensor(NAN).half(), FOUR), {}, "first in image 2"),
    "images int64": ((np.ones((4, 2, 2), np.int64), FOUR), {}, "images are int64"),
    "images bool": ((np.ones((4, 2, 2), bool), FOUR), {}, "images are bool"),
    "images complex": ((torch.ones(4, 2, 2, dtype=torch.complex64), FOUR), {}, "images are complex64"),
    "images of text": (([["a"]], [0]), {}, "images must be a tensor or an array of numbers"),
    "images ragged": (([[1.0], [1.0, 2.0]], [0, 1]), {}, "images must be a tensor or an array of numbers"),
    "images of one dimension": ((ones(4), FOUR), {}, "images are float32 of shape (4,)"),
    "images of five dimensions": ((ones(4, 1, 1, 2, 2), FOUR), {}, "shape (4, 1, 1, 2, 2)"),
    "no images": ((ones(0, 2, 2), FOUR[:0]), {}, "images are empty"),
    "images without pixels": ((ones(4, 1, 0, 2), FOUR), {}, "images are empty"),
    "labels float": ((ones(4, 2), ones(4)), {}, "labels are float32"),
    "labels bool": ((ones(4, 2), FOUR > 1), {}, "labels are bool"),
    "labels one-hot": ((ones(4, 2), np.eye(4, dtype=int)), {}, "labels are int64 of shape (4, 4)"),
    "labels scalar": ((ones(4, 2), 3), {}, "labels are int64 of shape ()"),
    "labels too few": ((ones(4, 2), FOUR[:3]), {}, "4 images but 3 labels"),
    "labels too many": ((ones(3, 2), FOUR), {}, "3 images but 4 labels"),
    "label negative": ((ones(4, 2), FOUR - 1), {}, "labels must lie in 0..2, not -1"),
    "label too large": ((ones(4, 2), FOUR), {"classes": 3}, "labels must lie in 0..2, not 3"),
    "classes zero": ((ones(4, 2), FOUR), {"classes": 0}, "classes must be at least 1, not 0"),
    "classes no number": ((ones(4, 2), FOUR), {"classes": "ten"}, "classes must be a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(user_error, case):
    arguments, options, what = BAD[case]
    with user_error(what):
        image_set(*arguments, **options)


def test_the_given_name_is_in_the_message(user_error):
    with user_error("mine: "):
        image_set(NAN, FOUR, name="mine")


@pytest.mark.parametrize(
    ("shape", "becomes"), [((5, 3, 4, 2), (5, 3, 4, 2)), ((5, 4, 2), (5, 1, 4, 2)), ((5, 7), (5, 7))]
)
@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
def test_good_input(shape, becomes, kind):
    values = np.random.default_rng(0).integers(0, 256, shape).astype(kind)
    labels = np.array([0, 2, 1, 0, 3], np.int16)
    made = image_set(values, labels)
    integer = values.dtype == np.uint8
    assert made.images.dtype == (torch.uint8 if integer else torch.float32)
    assert made.high == (255 if integer else None)
    np.testing.assert_array_equal(made.images.numpy().reshape(shape), values.astype(made.images.numpy().dtype))
    assert made.images.shape == becomes
    assert made.labels.dtype == torch.int64
    assert made.labels.tolist() == [0, 2, 1, 0, 3]
    assert (made.classes, made.name, len(made)) == (4, "user", 5)


def test_unusual_arrays_are_read_right():
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    fixed = values.copy()
    fixed.flags.writeable = False
    assert image_set(values[::-1], FOUR).images.tolist() == values[::-1].tolist()
    assert image_set(values[:, ::2], FOUR).images.tolist() == values[:, ::2].tolist()
    assert image_set(fixed, FOUR).images.tolist() == values.tolist()
    assert image_set(values.astype(float).tolist(), [3, 2, 1, 0], classes=9).classes == 9
    grown = torch.ones(4, 2, requires_grad=True)
    assert not image_set(grown, FOUR).images.requires_grad


def test_subset_keeps_order_and_everything_else():
    base = ImageSet(torch.arange(10.0)[:, None], torch.arange(10), 10, "ten", 16)
    for indices in ([7, 0, 7], np.array([7, 0, 7], np.int32), torch.tensor([7, 0, 7], dtype=torch.uint8)):
        part = base.subset(indices)
        assert part.images.flatten().tolist() == [7, 0, 7]
        assert part.labels.tolist() == [7, 0, 7]
        assert (part.classes, part.name, part.high) == (10, "ten", 16)
    part.images.zero_()
    assert base.images[7] == 7


@pytest.mark.parametrize(
    ("indices", "what"),
    [
        ([], "at least one integer"),
        ([0.5], "float64"),
        ([True, False], "bool"),
        ([[0, 1]], "shape (1, 2)"),
        ([10], "0..9, not 10"),
        ([3, -1], "0..9, not -1"),
        (["a"], "indices"),
    ],
)
def test_bad_subset(user_error, indices, what):
    with user_error("indices", what):
        ImageSet(torch.zeros(10, 1), torch.zeros(10).long(), 10, "ten", None).subset(indices)


def test_moving_takes_images_and_labels():
    moved = image_set(ones(4, 2), FOUR).to("meta")
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")
