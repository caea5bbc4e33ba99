"""What users give: a series, and the components that couple."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beyondprop.errors import NonFiniteError, UserError


def checked_series(
    series: Any, *, nodes: int | None = None, components: int | None = None, several: bool = False
) -> NDArray[np.float64]:
    """Numbers of shape (time, nodes, components), in double precision.

    Args:
        series: An array, a tensor, or nested lists.
        nodes: That it must have; None for any number.
        components: That it must have; None for any number.
        several: Whether (series, time, nodes, components) is right as well.

    Raises:
        UserError: It has another shape, or is no array of real numbers.
        NonFiniteError: There is NaN or infinity in it.
    """
    try:
        found = np.asarray(series.detach().cpu() if isinstance(series, torch.Tensor) else series)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"a series must be an array of numbers, and this is none: {error}") from error
    if found.dtype.kind not in "fiu":
        kind = type(series).__name__ if found.dtype == object or found.dtype.kind in "US" else found.dtype
        raise UserError(f"a series must be an array of real numbers, not {kind} (load it first)")
    if np.ma.is_masked(series):
        raise NonFiniteError(
            "the series has masked samples: fill them in, or give the pieces between as several series"
        )
    wanted = "(time, " + ("nodes, " if nodes is None else f"{nodes} nodes, ")
    wanted += "components)" if components is None else f"{components} components)"
    fits = found.ndim in ((3, 4) if several else (3,)) and found.size > 0
    if not fits or nodes not in (None, found.shape[-2]) or components not in (None, found.shape[-1]):
        more = f", or {wanted.replace('(', '(series, ')}" if several else ""
        raise UserError(f"a series must have shape {wanted}{more}; got {found.shape}")
    if not np.isfinite(found).all():
        place = np.unravel_index(int(np.argmin(np.isfinite(found))), found.shape)[-3:]
        raise NonFiniteError(
            "the series holds NaN or infinity, first at sample {}, node {}, component {}: fill it in, or give the "
            "pieces between as several series of one length".format(*map(int, place))
        )
    return np.ascontiguousarray(found, np.float64)


def checked_components(coupled: Any, components: int) -> tuple[int, ...]:
    """The components that couple, as a tuple; a single number stands for itself.

    Raises:
        UserError: They are no different numbers of components.

    >>> checked_components(0, 3), checked_components([0, 2], 3)
    ((0,), (0, 2))
    """
    try:
        found = tuple(map(operator.index, coupled if isinstance(coupled, Iterable) else (coupled,)))
    except TypeError:
        found = ()
    if not found or any(not 0 <= c < components for c in found) or len(set(found)) < len(found):
        raise UserError(f"coupled must name different components from 0 to {components - 1}, got {coupled!r}")
    return found
