"""What the benchmarks share: timing that is fair to all sides, and the result file."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from beyondprop.training.atomic import write_file
from beyondprop.training.provenance import cpu_model, device_name, source_commit


@dataclass(frozen=True)
class Row:
    """One comparison; the fields are those of `benchmarks/results/NAME.json`.

    Attributes:
        case: What was measured.
        metric: Which figure of it.
        ours: Its value.
        peer: Whom we stand beside.
        peer_value: Its value, None if it was not measured.
        ratio: Above 1 where ours is better, None if the peer was not measured.
    """

    case: str
    metric: str
    ours: float
    peer: str
    peer_value: float | None
    ratio: float | None


def compare(case: str, metric: str, ours: float, peer: str, peer_value: float | None, *, less_is_better: bool) -> Row:
    """Make a row; the ratio is above 1 where ours is better."""
    ratio = None
    if peer_value is not None:
        ratio = peer_value / ours if less_is_better else ours / peer_value
    return Row(case, metric, ours, peer, peer_value, ratio)


def interleave(
    steps: Mapping[str, Callable[[], Any]], rounds: int, warmup: int, device: torch.device
) -> dict[str, list[float]]:
    """Time one step of each in turn, round by round, so that whatever disturbs the machine disturbs all alike.

    Args:
        steps: By name.
        rounds: That count.
        warmup: Rounds before them, that do not.
        device: Where they run; CUDA is waited for.

    Returns:
        The seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warmup + rounds):
        for name, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait for CUDA."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(seconds: list[float]) -> tuple[float, float, float]:
    """Lowest, median and highest."""
    return min(seconds), statistics.median(seconds), max(seconds)


def environment(device: torch.device) -> dict[str, Any]:
    """Where a result comes from."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "commit": source_commit(),
    }


def write_results(path: Path, where: Mapping[str, Any], rows: list[Row]) -> None:
    """Write the result file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": dict(where), "rows": [asdict(row) for row in rows]}
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())
