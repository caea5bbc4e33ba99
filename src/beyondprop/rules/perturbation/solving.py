"""Populations under multiplexed gradient descent that note when each copy has solved its task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.rules.perturbation.analog import AnalogMultiplexedGradientDescent
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent
from beyondprop.rules.perturbation.perturbed import PerturbedNetwork


class _Noting(PerturbedNetwork):
    """Copies that say yes or no, each with one number in 0..1.

    Args:
        network: Gives shape (copies, batch, 1).
        patterns: All inputs, shape (patterns, ...): a copy has solved the task when its answers to all of them lie on
            the right side of 1/2.
        answers: What is right, zeros and ones, shape (patterns,).
        every: Steps between two checks.
        **options: The rule's own; `copies` is needed.

    Attributes:
        solved_at: The step of the first check at which a copy had solved it, -1 until then; shape (copies,).
    """

    patterns: Tensor
    answers: Tensor
    solved_at: Tensor
    taken: Tensor

    def __init__(
        self, network: nn.Module, patterns: Tensor, answers: Tensor, *, every: int = 50, **options: Any
    ) -> None:
        super().__init__(network, _squared_error, **options)
        self.every = every
        self.register_buffer("patterns", patterns.clone())
        self.register_buffer("answers", answers.bool())
        self.register_buffer("solved_at", torch.full((self.copies,), -1))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """As the rule, and look from time to time."""
        before = int(self.taken) // self.every
        if before != (int(self.taken) - self.span) // self.every:
            with torch.no_grad():
                self.solved_at[self.solved() & (self.solved_at < 0)] = self.taken
        self.taken += self.span
        return super().assign_credit(x, y, phase)  # type: ignore[safe-super]  # that of the rule beside it

    @torch.no_grad()
    def solved(self) -> Tensor:
        """Which copies are right about all patterns now, shape (copies,)."""
        return ((self.network(self.patterns).squeeze(-1) > 0.5) == self.answers).all(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logarithms of the copies' mean answer, no and yes: shape (batch, 2)."""
        yes = self.network(x).mean(dim=0)
        return torch.cat([1 - yes, yes], dim=1).clamp(min=1e-30).log()


class NotingMGD(_Noting, MultiplexedGradientDescent):
    """Multiplexed gradient descent that notes when each copy has solved its task."""


class NotingAnalogMGD(_Noting, AnalogMultiplexedGradientDescent):
    """Analog multiplexed gradient descent that notes when each copy has solved its task."""


def _squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of every copy, shape (copies,)."""
    return (outputs.squeeze(-1) - y).square().mean(dim=1)
