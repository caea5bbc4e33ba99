import numpy as np
import pytest
import torch

from beyondprop.data.augmentation import crop_flip, cutout, draw_crop_flip, draw_cutout


def reference(image, top, left, flip):
    """One image, pixel by pixel."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                y, x = i + top - 4, (width - 1 - j if flip else j) + left - 4
                if 0 <= y < height and 0 <= x < width:
                    result[c, i, j] = image[c, y, x]
    return result


@pytest.mark.parametrize(("kind", "shape"), [(torch.uint8, (3, 8, 8)), (torch.float32, (1, 5, 9))])
def test_against_one_image_at_a_time(kind, shape):
    every = [(top, left, flip) for top in range(9) for left in range(9) for flip in range(2)]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (len(every), *shape), generator=generator).to(kind)
    found = crop_flip(images, torch.tensor(every).T)
    assert found.dtype == kind
    for image, choice, result in zip(images.numpy(), every, found.numpy(), strict=True):
        np.testing.assert_array_equal(result, reference(image, *choice), err_msg=str(choice))


def test_draws_are_uniform():
    draws = draw_crop_flip(90_000, torch.Generator().manual_seed(0))
    assert draws.shape == (3, 90_000)
    # Five standard deviations of a count with these probabilities.
    for row in draws[:2]:
        counts = torch.bincount(row)
        assert len(counts) == 9
        assert ((counts - 10_000).abs() < 5 * (90_000 / 9 * 8 / 9) ** 0.5).all()
    assert set(draws[2].tolist()) == {0, 1}
    assert abs(int(draws[2].sum()) - 45_000) < 5 * 150
    rows = draws.double()
    assert (torch.corrcoef(rows) - torch.eye(3)).abs().max() < 5 / 300  # three separate draws


@pytest.mark.parametrize(("kind", "sides", "cut"), [(torch.uint8, (32, 32), (8, 8)), (torch.float32, (9, 17), (2, 4))])
def test_cutout_blackens_one_rectangle(kind, sides, cut):
    every = [(row, column) for row in range(sides[0]) for column in range(sides[1])]
    images = torch.randint(1, 256, (len(every), 2, *sides), generator=torch.Generator().manual_seed(0)).to(kind)
    found = cutout(images, torch.tensor(every).T)
    assert found.dtype == kind
    for image, (row, column), result in zip(images.numpy(), every, found.numpy(), strict=True):
        top, left = row - cut[0] // 2, column - cut[1] // 2
        expected = image.copy()
        expected[:, max(top, 0) : max(top + cut[0], 0), max(left, 0) : max(left + cut[1], 0)] = 0
        np.testing.assert_array_equal(result, expected, err_msg=f"{row}, {column}")


def test_cutout_is_anywhere_alike():
    draws = draw_cutout(90_000, (9, 5), torch.Generator().manual_seed(0))
    assert draws.shape == (2, 90_000)
    counts = torch.bincount(draws[0] * 5 + draws[1])
    assert len(counts) == 45
    assert ((counts - 2000).abs() < 5 * (90_000 / 45 * 44 / 45) ** 0.5).all()
