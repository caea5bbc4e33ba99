"""Checks of what users give: ranges of settings and names that are almost right. Free of torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from beyondprop.errors import UserError

_LEAST_WHOLE = {
    **dict.fromkeys(("epochs", "batch_size", "threads", "seeds", "steps", "trial_epochs", "repeats"), 1),
    **dict.fromkeys(("dim", "hidden", "first_width", "encoder_width"), 1),
    **dict.fromkeys(("seed", "validation", "alignment_every", "gauss_newton_every", "budget"), 0),
}
_REAL: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": ("above 0", lambda value: value > 0),
    "weight_decay": ("at least 0", lambda value: value >= 0),
    "ema": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "dropout": ("at least 0 and below 1", lambda value: 0 <= value < 1),
}

# What others call what has another name here.
_USUAL = {"lr": "learning-rate", "bs": "batch-size", "batch": "batch-size", "wd": "weight-decay"}
_ALIKE = 0.65  # a poorer match misleads; among short words, a third of the letters agree by chance


def check(**values: Any) -> None:
    """Refuse values that no training can have, whichever recipe they belong to.

    Args:
        **values: Settings by name, such as `epochs=5`. None stands for "not chosen" and passes, as do names that have
            no range here: what is particular to a rule is checked by the rule.

    Raises:
        UserError: A value is out of range, not finite or of a wrong type; the message names the command line's flag.

    >>> check(epochs=5, learning_rate=1e-3)
    >>> check(batch_size=0)
    Traceback (most recent call last):
    beyondprop.errors.UserError: --batch-size must be at least 1, not 0
    """
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag} must be a finite number, not {value}")
        if name in _LEAST_WHOLE:
            if not number or not isinstance(value, int):
                raise UserError(f"{flag} must be a whole number, not {value!r}")
            if value < _LEAST_WHOLE[name]:
                raise UserError(f"{flag} must be at least {_LEAST_WHOLE[name]}, not {value}")
        if name in _REAL:
            phrase, holds = _REAL[name]
            if not number or not holds(value):
                raise UserError(f"{flag} must be {phrase}, not {value!r}")


def check_fields(*instances: Any) -> None:
    """Refuse dataclass instances, such as a recipe's settings, with a field that `check` refuses."""
    for instance in instances:
        check(**{f.name: getattr(instance, f.name) for f in fields(instance)})


def check_whole(least: int, **values: object) -> None:
    """Refuse what is no whole number, or too small.

    Args:
        least: The smallest that is allowed.
        **values: By the names that users know them by.

    Raises:
        UserError: One of them is none.

    >>> check_whole(1, samples=8)
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_number(*, above: bool = False, **values: object) -> None:
    """Refuse what is no finite number of at least 0.

    Args:
        above: Whether 0 itself is refused, too.
        **values: By the names that users know them by.

    Raises:
        UserError: One of them is none.

    >>> check_number(sigma=0.1, above=True)
    """
    for name, value in values.items():
        known = isinstance(value, Real) and not isinstance(value, bool)
        if not known or not 0 <= float(value) < math.inf or (above and not value):  # type: ignore[arg-type]
            raise UserError(f"{name} must be a number {'above' if above else 'of at least'} 0, got {value!r}")


def closest(word: str, known: Iterable[str]) -> str | None:
    """Find the known name that the user may have meant, or None. Case and leading dashes do not count.

    >>> closest("--lr", ["--lr-schedule", "--learning-rate"])
    '--learning-rate'
    """
    bare = word.lower().lstrip("-")
    names = {name.lstrip("-"): name for name in known}
    if (usual := _USUAL.get(bare, "")) in names:
        return names[usual]
    likeness = {short: difflib.SequenceMatcher(None, short, bare).ratio() for short in names}
    best = max(likeness, key=lambda short: likeness[short], default="")  # of equals, the one that is listed first
    return names[best] if likeness.get(best, 0) >= _ALIKE else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Phrase which known name the user may have meant; empty where none is close.

    >>> suggestion("trian", ["train", "evaluate"])
    "; did you mean 'train'?"
    """
    found = closest(word, known)
    return "" if found is None else f"; did you mean {found!r}?"
