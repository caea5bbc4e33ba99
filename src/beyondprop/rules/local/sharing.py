"""Whether blocks that are to learn alone have parameters in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def shared_parameter(blocks: Sequence[nn.Module]) -> str | None:
    """Tell which parameter belongs to two blocks.

    Args:
        blocks: In order; they count from 1.

    Returns:
        A clause that names both blocks and the parameter, or None.
    """
    owners: dict[int, int] = {}
    for number, block in enumerate(blocks, start=1):
        for name, parameter in block.named_parameters():
            owner = owners.setdefault(id(parameter), number)
            if owner != number:
                return f"block {owner} and block {number} share the parameter {name}: each must learn alone"
    return None
