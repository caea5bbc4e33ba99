import numpy as np
import pytest
import torch

from beyondprop.data import ImageSet, Statistics, image_set


@pytest.mark.parametrize("shape", [(301, 3, 32, 32), (7, 1, 5, 3), (1, 2, 1, 1)])
@pytest.mark.parametrize("high", [255, 16])
def test_pixels_against_numpy(shape, high):
    """301 images of this size are more than one chunk, and the last chunk is smaller."""
    images = np.random.default_rng(0).integers(0, high + 1, shape, dtype=np.uint8)
    found = Statistics.of(ImageSet(torch.from_numpy(images), torch.zeros(shape[0]).long(), 1, "x", high))
    scaled = images.astype(np.float64) / high
    np.testing.assert_allclose(found.mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, scaled.std(axis=(0, 2, 3)), rtol=1e-12, atol=1e-15)


def test_features_against_numpy():
    """A mean a million times the deviation, which the textbook's one-pass formula in float32 would lose."""
    values = (np.random.default_rng(0).normal(size=(5000, 4)) + np.array([0, 1e6, -3, 100])).astype(np.float32)
    found = Statistics.of(image_set(values, np.zeros(5000, int)))
    np.testing.assert_allclose(found.mean, values.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, values.astype(np.float64).std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_channel_has_no_deviation(value):
    images = torch.full((50, 2, 4, 4), value, dtype=torch.uint8)
    images[0, 1, 0, 0] ^= 1
    std = Statistics.of(image_set(images, [0] * 50)).std
    assert std[0] == 0
    assert std[1] > 0
