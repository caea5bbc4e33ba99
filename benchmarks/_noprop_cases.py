"""The cases of `noprop_theory.py`: how large they are, what stands beside ours in them, and their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import _noprop_sides

OUT = Path(__file__).resolve().parent / "results" / "noprop_theory.json"
SAME_BLOCKS = "back-propagation through the same blocks"
ONE_CLASSIFIER = "back-propagation through encoder and block, one classifier"
CHAIN_PEERS = (
    "first block alone",
    "best block alone",
    "blocks alone, probabilities averaged",
    "blocks alone, probabilities multiplied",
    SAME_BLOCKS,
)
STEP = _noprop_sides.Size(image=(3, 32, 32))


@dataclass(frozen=True)
class Size:
    """How large everything is; the defaults are what the documentation shows."""

    step: _noprop_sides.Size = STEP
    solver_steps: tuple[int, ...] = (20, 1000)
    counted_steps: tuple[int, ...] = (1, 20, 1000)
    step_counts: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 1000)
    seeds: int = 3
    held_out: int = 360
    epochs: int | None = None  # of the recipes; None: their own
    chain_epochs: int = 20
    views: tuple[int, ...] = (8, 4, 2, 1)
    widths: tuple[int, ...] = (32, 4, 2)


def through_steps(steps: int) -> str:
    """Name the peer that is trained by solving the equation."""
    return f"back-propagation through {steps} Euler steps of the block"


def step_case(ours: str, size: Size) -> str:
    """Name a row's training step."""
    blocks = f", T={size.step.blocks}" if ours == "noprop-dt" else ""
    return f"{ours}: training step, CIFAR-10 shape, batch {size.step.batch}{blocks}"


def prediction_case(name: str, steps: str, size: Size) -> str:
    """Name a row's prediction."""
    return f"{name}: prediction, CIFAR-10 shape, batch {size.step.batch}, {steps}"


def digits_case(system: str, size: Size) -> str:
    """Name the data and the seeds of a row."""
    return f"{system}/digits, {size.held_out} held-out images, {size.seeds} seeds"


def chain_case(rows: int, hidden: int, size: Size) -> str:
    """Name what each of the eight blocks sees, and how wide it is."""
    seen = "the whole image" if rows == 8 else f"{rows} of 8 rows" if rows > 1 else "1 of 8 rows"
    where = f"{size.held_out} held-out images, {size.seeds} seeds"
    return f"8 blocks on digits, each sees {seen}, width {hidden}, {where}"


def chain_settings(size: Size) -> list[tuple[int, int]]:
    """Rows that a block sees, and its width: fewer rows first, then narrower blocks that see the whole image."""
    return [(rows, size.widths[0]) for rows in size.views] + [(8, width) for width in size.widths[1:]]
