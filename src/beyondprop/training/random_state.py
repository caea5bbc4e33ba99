"""The generators from which a training draws: torch's global ones, and a DataLoader's own."""

from __future__ import annotations

import torch
from torch import Tensor


class RandomState:
    """Reads and sets their states.

    Args:
        device: The rule's.
        loader: A DataLoader's own generator, or None.
    """

    def __init__(self, device: torch.device, loader: torch.Generator | None) -> None:
        self._device, self._loader = device, loader

    def get(self) -> dict[str, Tensor]:
        """The states, by generator; bytes on the CPU."""
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        if self._loader is not None:
            states["loader"] = self._loader.get_state()
        return states

    def set(self, states: dict[str, Tensor]) -> None:
        """Set them; what was saved on another kind of device is left out."""
        torch.set_rng_state(states["cpu"])
        if self._device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self._device)
        if self._loader is not None and "loader" in states:
            self._loader.set_state(states["loader"])
