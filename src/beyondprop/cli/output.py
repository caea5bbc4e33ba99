"""What the commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from beyondprop.report.figures import in_figures, in_words

__all__ = ["aligned", "in_figures", "in_words", "note", "say", "say_json", "told_how_to_go_on"]


def say(text: str = "") -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print a line that is not part of the result."""
    sys.stderr.write(text + "\n")


def told_how_to_go_on(interrupt: KeyboardInterrupt, way: str, *, several: bool = False) -> KeyboardInterrupt:
    """The interruption of a training, with the command line's own way to go on in place of the library's.

    Args:
        interrupt: What was raised.
        way: To go on.
        several: Whether there are several trainings: it need not have come in the first checkpoint's time.
    """
    untold = "interrupted" if several else "interrupted before the first checkpoint"
    so_far = interrupt.args[0] if interrupt.args else untold
    return KeyboardInterrupt(f"{so_far}; {way}" if way else so_far)


def say_json(document: dict[str, Any]) -> None:
    """Print one JSON object on one line, the last of stdout."""
    say(json.dumps(document, allow_nan=False))


def aligned(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Lay rows of cells out in columns; the last column is left ragged.

    >>> print(aligned([("block", "alone"), ("1", "81.2 %")]))
      block  alone
      1      81.2 %
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    padded = [[cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)] for row in rows]
    return "\n".join(indent + "  ".join([*cells, row[-1]]).rstrip() for cells, row in zip(padded, rows, strict=True))
