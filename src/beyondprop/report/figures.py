"""Figures and their names, for reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


def in_percent(accuracy: Mapping[str, Any] | None) -> str:
    """A mean in per cent, with its deviation over seeds where there are several; a dash where there is none.

    >>> in_percent({"mean": 0.5, "std": 0.01, "values": [0.49, 0.51]})
    '50.00 ± 1.00'
    >>> in_percent({"mean": 0.5, "std": 0.0, "values": [0.5]})
    '50.00'
    """
    if accuracy is None:
        return "–"
    return f"{100 * accuracy['mean']:.2f}" + (f" ± {100 * accuracy['std']:.2f}" if len(accuracy["values"]) > 1 else "")


def in_threads(count: int) -> str:
    """A number of threads for reading.

    >>> in_threads(1), in_threads(2)
    ('1 thread', '2 threads')
    """
    return f"{count} thread{'s' * (count != 1)}"
