"""Temporal order and adding as their text says, and characters of files good and bad."""

import pytest
import torch

from beyondprop.data.sequence_tasks import characters, marked_mean, temporal_order
from beyondprop.errors import DataError

TEXT = "the cat sat on the mat, and the dog sat on the cat. " * 20


def test_marks_of_temporal_order_stand_in_their_tenths_and_tell_the_class():
    train, test = temporal_order(60, train=3000, test=500)
    for part in (train, test):
        symbols = part.images.argmax(-1)
        assert bool((part.images.sum(-1) == 1).all())
        marked = symbols < 2
        assert bool((marked.sum(1) == 2).all())
        places = marked.nonzero()[:, 1].view(-1, 2)
        first, second = symbols.gather(1, places).unbind(1)
        assert torch.equal(first + 2 * second, part.labels)
        assert part.classes == 4
    assert (int(places[:, 0].min()), int(places[:, 0].max())) == (6, 11)
    assert (int(places[:, 1].min()), int(places[:, 1].max())) == (30, 35)
    assert torch.bincount(train.labels).min() > 600


def test_marked_numbers_have_the_mean_and_their_places():
    train, _ = marked_mean(30, train=3000, test=5)
    marks, numbers = train.images.unbind(-1)
    places = marks.nonzero()[:, 1].view(-1, 2)
    torch.testing.assert_close(numbers.gather(1, places).mean(1, keepdim=True), train.labels)
    assert (int(places[:, 0].min()), int(places[:, 0].max())) == (0, 2)
    assert (int(places[:, 1].min()), int(places[:, 1].max())) == (3, 14)


@pytest.mark.parametrize("task", [temporal_order, marked_mean])
def test_epochs_are_fresh_and_known_by_their_number(task):
    train, test = task(20, train=50, test=50)
    second = train.of_epoch(1)
    assert not torch.equal(train.images, second.images)
    assert not torch.equal(train.images, test.images)
    assert torch.equal(second.images, task(20, train=50, test=3).train.of_epoch(1).images)
    with pytest.raises(DataError, match="length"):
        task(9)


def test_windows_of_a_text_predict_the_next_character(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(TEXT)
    (train, test), alphabet = characters(path, window=16, test_fraction=0.2)
    assert alphabet == "".join(sorted(set(TEXT)))
    assert train.classes == len(alphabet)
    read = ["".join(alphabet[i] for i in row) for row in train.images.tolist()]
    told = ["".join(alphabet[i] for i in row) for row in train.labels.tolist()]
    assert TEXT.startswith("".join(read))
    assert TEXT[1:].startswith("".join(told))
    split = round(len(TEXT) * 0.8)
    assert TEXT[split:].startswith("".join(alphabet[i] for i in test.images.flatten().tolist()))
    assert len(train) == (split - 1) // 16


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (None, {}, "cannot read"),
        (b"\xff\xfe\x00bad", {}, "UTF-8"),
        (b"too short", {}, "9 characters"),
        (b"", {}, "0 characters"),
        (b"aaaa" * 500, {}, "one character alone"),
        (TEXT.encode(), {"window": 1}, "window"),
        (TEXT.encode(), {"test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_texts_that_cannot_be_used_are_told(tmp_path, content, options, words):
    path = tmp_path / "story.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        characters(path, **options)
