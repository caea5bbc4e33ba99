"""Figures and their names, for reading."""

from __future__ import annotations


def in_words(name: str) -> str:
    """A figure's name for reading.

    >>> in_words("accuracy_in_1_steps")
    'accuracy in 1 step'
    """
    words = name.replace("_", " ")
    return words.removesuffix("s") if words.endswith(" in 1 steps") else words


def in_figures(name: str, value: float | None) -> str:
    """A figure for reading, accuracies in per cent; a dash where there is none."""
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if "accuracy" in name else f"{value:.4g}"


def in_threads(count: int) -> str:
    """A number of threads for reading.

    >>> in_threads(1), in_threads(2)
    ('1 thread', '2 threads')
    """
    return f"{count} thread{'s' * (count != 1)}"
