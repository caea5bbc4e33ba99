"""How long a training step takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from beyondprop.checks import check


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, over several runs of it.

    Attributes:
        median: Seconds.
        low: First quartile.
        high: Third quartile.
        repeats: Runs that were counted.
        threads: Of torch on the CPU, while it was measured.
    """

    median: float
    low: float
    high: float
    repeats: int
    threads: int


def step_time(
    step: Callable[[], Any],
    *,
    repeats: int = 15,
    warmup: int = 3,
    most_seconds: float = 10.0,
    device: torch.device | str = "cpu",
) -> StepTime:
    """Time a training step, warm.

    The first calls allocate, compile and fill caches, and do not count. On CUDA each call is waited for. Whatever else
    runs on the machine slows some calls more than others: the median is less moved by it than the mean, and quartiles
    that lie far apart tell that the figure is worth little.

    Args:
        step: Called without arguments.
        repeats: Calls that count.
        warmup: Calls before them.
        most_seconds: No further call begins after so many seconds of counted calls; three always run.
        device: Where the step computes.

    >>> found = step_time(lambda: sum(range(1000)), repeats=5)
    >>> found.repeats, 0 < found.low <= found.median <= found.high
    (5, True)
    """
    check(repeats=repeats)
    device = torch.device(device)
    for _ in range(warmup):
        step()
    seconds: list[float] = []
    while len(seconds) < repeats and (len(seconds) < 3 or sum(seconds) < most_seconds):
        _synchronize(device)
        start = time.perf_counter()
        step()
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else 3 * seconds
    return StepTime(median, low, high, len(seconds), torch.get_num_threads())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
