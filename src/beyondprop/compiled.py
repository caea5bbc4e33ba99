"""Loops that Numba compiles, where it is installed: a module of them is imported when it is first needed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


@cache
def compiled(module: str) -> Any:
    """A module that needs Numba, or None where there is none; where there is one that does not work, with a warning.

    Args:
        module: Its whole name.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module(module)
    except ImportError as error:  # of another NumPy, as a rule
        warnings.warn(f"Numba cannot be used, and torch's operations take its place: {error}", stacklevel=2)
        return None


def by_threads(work: Callable[[int, int, int], None], count: int) -> None:
    """Let torch's number of threads take their parts of some work that releases Python's lock.

    Args:
        work: Called with the number of a part, its first item and the one behind its last.
        count: Of items.
    """
    parts = torch.get_num_threads()
    ends = [count * part // parts for part in range(parts + 1)]
    tasks = list(zip(range(parts), ends[:-1], ends[1:], strict=True))
    if parts == 1:
        work(*tasks[0])
        return
    with ThreadPoolExecutor(parts) as pool:
        for _ in pool.map(lambda task: work(*task), tasks):
            pass
