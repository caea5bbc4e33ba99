"""The state of torch's global generators, to draw the same numbers again."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import nn


class GeneratorState:
    """The generators' state at a moment: of the CPU, and of the devices in use.

    Args:
        devices: In use, of any kind; see `cuda_devices`.

    >>> state = GeneratorState(cuda_devices(nn.Linear(3, 2)))
    >>> drawn = torch.rand(3)
    >>> state.restore()
    >>> torch.equal(torch.rand(3), drawn)
    True
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}

    def restore(self) -> None:
        """Put them there again."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)


def cuda_devices(module: nn.Module) -> list[torch.device]:
    """The CUDA devices that a module's parameters and buffers are on, each once."""
    tensors = chain(module.parameters(), module.buffers())
    return list({tensor.device for tensor in tensors if tensor.device.type == "cuda"})
