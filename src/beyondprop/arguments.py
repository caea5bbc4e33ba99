"""Checks of numbers that users give."""

from __future__ import annotations

import math
from numbers import Integral, Real

from beyondprop.errors import UserError


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
