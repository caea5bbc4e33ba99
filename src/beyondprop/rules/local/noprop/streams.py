"""A stream of random numbers for each block: what a block draws depends on no other block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_GOLDEN = 0x9E3779B9  # odd, so that neighbouring blocks get seeds far apart


def draw_step_seed() -> int:
    """Take one number from torch's global CPU generator: all that a step draws follows from it."""
    return int(torch.randint(2**32, ()))


@contextmanager
def block_stream(step_seed: int, block: int, device: torch.device) -> Iterator[None]:
    """Within it, torch's generators of the CPU and of `device` are the block's own; afterwards they are as before.

    Blocks that are trained by several processes then draw the same numbers, noise and dropout alike, as those that one
    process trains.

    Args:
        step_seed: Of `draw_step_seed`, one for every step.
        block: Number of the block; 0 for the head.
        device: Where the block is.
    """
    seed = (step_seed + block * _GOLDEN) % 2**32
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield
