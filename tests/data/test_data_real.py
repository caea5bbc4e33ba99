"""The publishers' own bytes, where the machine has them; what is expected is what publishers and literature say."""

import pytest
import torch

from beyondprop import data
from beyondprop.data import registry
from beyondprop.data.files import locate

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
# Shape, images a class in training and test, first training labels, and mean and deviation of the training images.
KNOWN = {
    "mnist": ((1, 28, 28), MNIST_TRAIN, MNIST_TEST, [5, 0, 4, 1, 9], [0.1307], [0.3081]),
    "fashion-mnist": ((1, 28, 28), [6000] * 10, [1000] * 10, [9, 0, 0, 3, 0], [0.2860], [0.3530]),
    "cifar-10": (
        (3, 32, 32),
        [5000] * 10,
        [1000] * 10,
        [6, 9, 9, 4, 1],
        [0.4914, 0.4822, 0.4465],
        [0.2470, 0.2435, 0.2616],
    ),
    "cifar-100": (
        (3, 32, 32),
        [500] * 100,
        [100] * 100,
        [19, 29, 0, 11, 1],
        [0.5071, 0.4865, 0.4409],
        [0.2673, 0.2564, 0.2762],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_set(name):
    if not all(locate(name, file).is_file() for file in registry.SETS[name].files):
        pytest.skip(f"{name} is not in {data.where(name)}; BEYONDPROP_DATA may name a folder that has it")
    shape, train_counts, test_counts, labels, mean, std = KNOWN[name]
    assert {verdict for _, verdict in data.verify(name)} == {"ok"}
    train, test = data.load(name, download=False)
    assert train.images.shape == (sum(train_counts), *shape)
    assert test.images.shape == (sum(test_counts), *shape)
    assert torch.bincount(train.labels).tolist() == train_counts
    assert torch.bincount(test.labels).tolist() == test_counts
    assert train.labels[:5].tolist() == labels
    statistics = data.Statistics.of(train)
    # The literature's four digits, which it does not always round the same way.
    assert statistics.mean.tolist() == pytest.approx(mean, abs=1.01e-4)
    assert statistics.std.tolist() == pytest.approx(std, abs=1.01e-4)
