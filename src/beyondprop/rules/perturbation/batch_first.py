"""Which layers have no example for each of their rows, though they may have as many rows as there are examples."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.rule import without_trace


def calls_of_fixed_length(network: nn.Module, layers: Iterable[nn.Module], x: Tensor) -> set[int]:
    """Find calls of layers whose outputs have as many rows with one example more, by passes that leave no trace.

    Args:
        network: In the mode in which it is to run.
        layers: Those looked at.
        x: A batch.

    Returns:
        Numbers of the calls, in their order; none where the network runs on batches of this length alone.

    >>> calls_of_fixed_length(nn.Linear(3, 2), [], torch.zeros(4, 3))
    set()
    """
    found: list[int] = []

    def note(_layer: nn.Module, _args: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        found.append(len(value) if value.ndim else 0)

    with without_trace(network), ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(note).remove)
        network(x)
        own = found.copy()
        found.clear()
        try:
            network(torch.cat([x, x[:1]]))
        except Exception:  # whatever its own forward makes of a batch of another length
            return set()
    return {number for number, lengths in enumerate(zip(own, found, strict=False)) if lengths[0] == lengths[1]}
