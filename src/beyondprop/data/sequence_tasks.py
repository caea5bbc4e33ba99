"""Sequences with one answer at their end: temporal order and adding; and the characters of a user's text."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from beyondprop.data.sequences import drawn
from beyondprop.data.sets import SequenceSet, Splits, whole
from beyondprop.errors import DataError

ORDER_SYMBOLS = 6  # two that matter, four that distract


def temporal_order(length: int = 60, *, train: int = 2000, test: int = 1000) -> Splits:
    """Temporal order with one bit a mark (Hochreiter and Schmidhuber, 1997), as in the code of arXiv 2112.01453.

    Symbols are one-hot codes of six. Four distract; of the other two, X and Y, one stands at a random step of the
    second tenth of the sequence and one of the sixth. The class tells which two: (first is Y) + 2 (second is Y).

    Args:
        length: Steps, at least 10.
        train: Sequences of an epoch, all fresh.
        test: Sequences for testing.

    Raises:
        DataError: A number is too small.

    >>> train, _ = temporal_order(20, train=4, test=4)
    >>> symbols = train.images.argmax(-1)
    >>> marks = symbols[symbols < 2].view(4, 2)
    >>> tuple(train.images.shape), bool((marks[:, 0] + 2 * marks[:, 1] == train.labels).all())
    ((4, 20, 6), True)
    """
    length = whole(length, "length", at_least=10)
    tenth = length // 10

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        places = torch.randint(tenth, (2, count), generator=generator) + torch.tensor([[tenth], [length // 2]])
        marks = torch.randint(2, (2, count), generator=generator)
        symbols = torch.randint(2, ORDER_SYMBOLS, (count, length), generator=generator)
        symbols.scatter_(1, places.T, marks.T)
        return F.one_hot(symbols, ORDER_SYMBOLS).float(), marks[0] + 2 * marks[1]

    return drawn(draw, train, test, f"temporal-order-{length}", 4)


def marked_mean(length: int = 30, *, train: int = 2000, test: int = 1000) -> Splits:
    """The adding problem as in the code of arXiv 2112.01453: at the end, the mean of two marked numbers.

    Inputs of a step are its mark and a number, uniform in 0..1. One of the first tenth of the steps is marked, and one
    of the four tenths behind it.

    Args:
        length: Steps, at least 10.
        train: Sequences of an epoch, all fresh.
        test: Sequences for testing.

    Raises:
        DataError: A number is too small.

    >>> train, _ = marked_mean(30, train=3, test=3)
    >>> marks, numbers = train.images.unbind(-1)
    >>> bool(torch.allclose((marks * numbers).sum(1) / 2, train.labels[:, 0])), marks.sum(1).tolist()
    (True, [2.0, 2.0, 2.0])
    """
    length = whole(length, "length", at_least=10)

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        numbers = torch.rand(count, length, generator=generator)
        tenth = length // 10
        first = torch.randint(tenth, (count,), generator=generator)
        second = torch.randint(tenth, tenth + length * 2 // 5, (count,), generator=generator)
        marks = (F.one_hot(first, length) + F.one_hot(second, length)).float()
        return torch.stack([marks, numbers], dim=2), (marks * numbers).sum(dim=1, keepdim=True) / 2

    return drawn(draw, train, test, f"marked-mean-{length}", 1)


def characters(path: Path | str, *, window: int = 64, test_fraction: float = 0.1) -> tuple[Splits, str]:
    """Cut a user's text into windows whose labels are, at every step, the next character.

    The text is divided in its order; a window's last label is the next window's first input. The alphabet is that of
    the whole text.

    Args:
        path: A file of UTF-8 text.
        window: Characters a window, at least 2.
        test_fraction: Share of the text, its end, kept for testing; above 0 and below 1.

    Returns:
        Training and test windows, and the alphabet in the order of its indices.

    Raises:
        DataError: The file is not there, no UTF-8 text, or too short; or a number is out of range.
    """
    window = whole(window, "window", at_least=2)
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must lie between 0 and 1, not {test_fraction}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): name a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text (byte {error.start}: {error.reason}): convert it") from error
    alphabet = "".join(sorted(set(text)))
    split = round(len(text) * (1 - test_fraction))
    shortest = min(split, len(text) - split)
    if shortest < window + 1:
        raise DataError(
            f"{path} has {len(text)} characters, of which {shortest} in the smaller of training and test part: each "
            f"needs at least {window + 1}, a window of {window} and one more; take a longer text or a smaller window"
        )
    if len(alphabet) < 2:
        raise DataError(f"{path} holds one character alone, {alphabet!r}: there is nothing to predict")
    index = {character: number for number, character in enumerate(alphabet)}
    indices = torch.tensor([index[character] for character in text])
    name = Path(path).stem
    return Splits(*(_windows(part, window, alphabet, name) for part in (indices[:split], indices[split:]))), alphabet


def _windows(indices: Tensor, window: int, alphabet: str, name: str) -> SequenceSet:
    pieces = indices[: (len(indices) - 1) // window * window + 1].unfold(0, window + 1, window)
    x, y = pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()
    return SequenceSet(x, y, len(alphabet), name, None, alphabet=alphabet)
