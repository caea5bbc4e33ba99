"""What large pages of memory are worth on the CPU: the same steps with and without them.

    python benchmarks/large_pages.py --rounds 5

The command line sets `THP_MEM_ALLOC_ENABLE=1`, by which torch asks Linux for pages of 2 MiB for tensors of that size
and more. glibc returns blocks above 32 MiB to the system when they are freed, and each one is new, and filled with
zeros page by page, when it is asked for again: a matter of a tensor's size, not of a rule.

Every round starts a process of each kind, which does some warm steps of every case; figures are medians over rounds of
a process's median. On a system that gives large pages to all programs, or to none, both sides are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from _timing import Row, compare, environment, interleave, write_results
from beyondprop import Backprop, MonoForward, PCANet
from beyondprop.networks.classifiers import convolutional

OUT = Path(__file__).resolve().parent / "results" / "large_pages.json"
VARIABLE = "THP_MEM_ALLOC_ENABLE"
CPU = torch.device("cpu")


def steps(batch: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, generator=generator)
    x, y = images.to(memory_format=torch.channels_last), torch.arange(batch) % 10
    found: dict[str, Callable[[], object]] = {}
    for rule_class in (Backprop, MonoForward):
        network = convolutional((3, 32, 32), 10).to(memory_format=torch.channels_last)
        rule = rule_class.for_classifier(network, x, 10)
        optimizer = torch.optim.Adam(rule.parameters(), fused=True)
        for precision in ("float32", "bf16"):
            found[f"{rule_class.__name__}, convolutions, {precision}, batch {batch}"] = _step(
                rule, optimizer, x, y, precision
            )
    pcanet = PCANet((3, 32, 32), 10, first=40, patch=5, block=8, stride=4, grids=(4, 2, 1), passes=1)
    for filters in pcanet.filters:
        filters.copy_(torch.randn(filters.shape, generator=generator))
    found[f"PCANet, features of {batch} images"] = lambda: pcanet.features(images)
    return found


def _step(
    rule: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, precision: str
) -> Callable[[], object]:
    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            rule.backward(x, y)
        optimizer.step()

    return step


def medians(batch: int, repeats: int) -> dict[str, float]:
    """Seconds of each case in this process."""
    timed = {name: interleave({name: step}, repeats, 2, CPU)[name] for name, step in steps(batch).items()}
    return {name: statistics.median(seconds) for name, seconds in timed.items()}


def measure(batch: int, repeats: int, rounds: int, threads: int) -> list[Row]:
    """Start processes in turn and compare them."""
    command = [sys.executable, __file__, "--inside", "--batch", str(batch), "--repeats", str(repeats)]
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for value in ("1", "0"):
            variables = os.environ | {VARIABLE: value, "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True)
            for name, seconds in json.loads(done.stdout).items():
                found.setdefault(name, {}).setdefault(value, []).append(seconds)
    return [
        compare(
            name,
            "seconds",
            statistics.median(sides["1"]),
            "pages of 4 KiB",
            statistics.median(sides["0"]),
            less_is_better=True,
        )
        for name, sides in found.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512, help="images; the first maps of 256 have 32 MiB")
    parser.add_argument("--repeats", type=int, default=10, help="steps of a process")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.inside:
        print(json.dumps(medians(given.batch, given.repeats)))
        return
    torch.set_num_threads(given.threads)
    write_results(given.out, environment(CPU), measure(given.batch, given.repeats, given.rounds, given.threads))


if __name__ == "__main__":
    main()
