import numpy as np
import pytest
import torch
from small_sets import snapshot

from beyondprop import data


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_are_read_as_written(small, root, name):
    _, content = small(name)
    before = snapshot(root)
    splits = data.load(name)
    for split in ("train", "test"):
        part, (images, labels) = getattr(splits, split), content[split]
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        np.testing.assert_array_equal(part.images.numpy(), images[:, None])
        np.testing.assert_array_equal(part.labels.numpy(), labels)
        assert (part.classes, part.high, part.name, len(part)) == (10, 255, name, len(labels))
    assert snapshot(root) == before


@pytest.mark.parametrize(("name", "classes"), [("cifar-10", 10), ("cifar-100", 100)])
def test_cifar_records_are_read_as_written(small, name, classes):
    _, content = small(name)
    train, test = data.load(name)
    *training, last = content.values()
    for part, files in ((train, training), (test, [last])):
        expected = np.concatenate([images for images, _ in files])  # height, width, channel
        np.testing.assert_array_equal(part.images.permute(0, 2, 3, 1).numpy(), expected)
        np.testing.assert_array_equal(part.labels.numpy(), np.concatenate([labels for _, labels in files]))
        assert part.images.is_contiguous()
        assert (part.classes, part.high, part.name) == (classes, 255, name)


def test_loaded_memory_belongs_to_the_caller(small):
    """Torch warns about memory that must not be written to, and warnings are errors here."""
    for name in ("mnist", "cifar-10", "cifar-100"):
        small(name)
        for part in data.load(name):
            part.images.fill_(7)
            assert (part.images == 7).all()


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    train, test = data.load("digits")
    assert (len(train), len(test), train.high, train.classes) == (1437, 360, 16, 10)
    ours = torch.cat([torch.cat([p.images.flatten(1), p.labels[:, None]], dim=1) for p in (train, test)])
    rows = sorted(map(tuple, np.column_stack([images, labels]).astype(int).tolist()))
    assert sorted(map(tuple, ours.tolist())) == rows
    assert sorted(torch.bincount(test.labels).tolist()) == [35, 35, 36, 36, 36, 36, 36, 36, 37, 37]


def test_the_digits_split_never_changes():
    """Results are compared across versions: whoever changes the split must see this fail."""
    test = data.load("digits").test
    assert test.labels[:12].tolist() == [5, 9, 2, 4, 6, 7, 9, 3, 4, 6, 8, 5]
    assert int((test.images.long().flatten(1).sum(1) * torch.arange(1, 361)).sum()) == 20248855
