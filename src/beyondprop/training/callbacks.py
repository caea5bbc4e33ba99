"""What else is to happen at every step of a training."""

from __future__ import annotations

from typing import Protocol

from torch.optim import Optimizer


class Callback(Protocol):
    """Called around every step; it may change the rule's parameters and the optimizer's state with them.

    What it does should depend on the number of the step, on what the rule's `state_dict` holds and on torch's global
    generators alone: then a resumed training is the one that was interrupted.
    """

    def before_step(self, step: int, optimizer: Optimizer) -> None:
        """Prepare for a batch. Steps are counted from 1."""

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Follow the optimizer's step."""
