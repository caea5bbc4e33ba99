"""What the sides of `noprop_timed.py` share: each is a process that times what it is told to.

This file needs neither torch nor JAX: each side brings its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CLASSES = 10
DROPOUT = 0.2
HIDDEN = 256
LEARNING = {"lr": 1e-3, "weight_decay": 1e-3}


class Side(Protocol):
    """One side of the comparison, ready to be timed.

    Attributes:
        facts: What the result should know of it; `block_parameters` among them, those of the block and its encoder.
    """

    facts: dict[str, Any]

    def task(self, name: str) -> Callable[[], object]:
        """Find what a name stands for: a call that returns when its work is done.

        Args:
            name: `"train"`, one optimizer step on one batch, or the method and the number of steps of a prediction of
                one batch: `"euler 20"`.
        """


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Make the command line that all sides have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--image", type=int, nargs=3, default=(3, 32, 32), help="channels, height and width")
    made.add_argument("--batch", type=int, default=128, help="images in a batch")
    made.add_argument("--threads", type=int, default=2, help="of the processor")
    return made


def check_commit(checkout: Path, expected: str) -> None:
    """Refuse a checkout of another commit, or one with changed files."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if (head := git("rev-parse", "HEAD")) != expected:
        raise SystemExit(f"{checkout} is not a checkout of {expected}: its commit is {head or 'unknown'}")
    if changed := git("status", "--porcelain", "--untracked-files=no"):
        raise SystemExit(f"{checkout} has changed files: {changed}")


def turn(call: Callable[[], object], calls: int, limit: float) -> list[float]:
    """Time some calls in a row.

    The first warms up and is left out, unless it stands alone because the time is up.

    Args:
        call: What to time.
        calls: How many, the first not counted.
        limit: Seconds after which no further one is begun.

    Returns:
        The seconds of each that counts.
    """
    seconds: list[float] = []
    while len(seconds) <= calls and sum(seconds) < limit:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds[1:] or seconds


def serve(make: Callable[[], Side]) -> None:
    """Answer on standard output what is asked on standard input, line by line, until that is closed.

    The first line out holds the facts. A line in, `{"task": ..., "calls": ..., "limit": ...}`, is a `turn`, answered by
    its seconds. Whatever else is printed goes to standard error.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    side = make()
    print(json.dumps(side.facts), file=answers, flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(turn(side.task(wanted["task"]), wanted["calls"], wanted["limit"])), file=answers, flush=True)
