"""Cells and columns of Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

_WORDS = {"Recipe", "Departures", "System", "Family", "Paper", "Recipes", "Case", "Measured", "Beside"}  # on the left

# What stands around a model in a processor's name: marks, its clock, cores and kind.
_AROUND_MODEL = re.compile(r"\((?:R|TM)\)| (?:CPU|Processor|\d+-Core Processor)\b| @.*", re.IGNORECASE)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = _WORDS) -> str:
    """Set cells in columns.

    Args:
        heads: Of the columns.
        rows: Of cells.
        left: Heads of the columns that stand on the left, because they hold words.

    >>> print(markdown_table(["Rule", "Steps"], [["`bp`", "10"]], left=["Rule"]))
    | Rule | Steps |
    | :--- | ---: |
    | `bp` | 10 |
    """
    rule = [":---" if head in left else "---:" for head in heads]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def escaped(text: str) -> str:
    """A text whose characters mean nothing to Markdown."""
    return re.sub(r"([|*_\[\]<>`])", r"\\\1", text)


def duration(seconds: float) -> str:
    """Seconds in a unit that gives a readable number.

    >>> duration(5.4), duration(312), duration(9000)
    ('5.4 s', '5.2 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def result_label(result: dict[str, Any]) -> str:
    """The recipe, with the suffix of its file where it has one."""
    extra = result["file"].stem.removeprefix(result["recipe"].split("/")[1]).removeprefix("-")
    return f"`{result['recipe']}`" + (f" ({extra})" if extra else "")


def processor(model: str) -> str:
    """Shorten a processor's name to its maker and model; of an unknown one it is a CPU.

    >>> processor("AMD EPYC 7763 64-Core Processor"), processor("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz")
    ('AMD EPYC 7763', 'Intel Xeon Platinum 8375C')
    >>> processor("AMD EPYC"), processor("")
    ('AMD EPYC', 'CPU')
    """
    names = (" ".join(_AROUND_MODEL.sub("", name).split()) for name in model.split(", "))
    return escaped(", ".join(names)) or "CPU"
