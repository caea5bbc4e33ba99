"""Replicas under Hamiltonian echoes that keep what they answered on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.rule import check_labels
from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem
from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho


class SignCost(nn.Module):
    """|Ψ - target|² of one mode whose amplitude says no (label 0) by +target and yes (label 1) by -target.

    Args:
        targets: Of each replica, shape (replicas,).

    Raises:
        UserError: In `forward`, when a label is neither 0 nor 1.
    """

    targets: Tensor

    def __init__(self, targets: Tensor) -> None:
        super().__init__()
        self.register_buffer("targets", targets.clone())

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean over the batch for each replica, shape (replicas,), from outputs (batch, replicas)."""
        wanted = (1 - 2 * check_labels(y, 2).to(self.targets))[:, None] * self.targets
        return torch.view_as_real(outputs - wanted).square().sum(dim=-1).mean(dim=0)


class NotingEcho(HamiltonianEcho):
    """Hamiltonian echoes of replicas that learn a table of yes and no, and note their answers as they learn.

    Args:
        system: Reads one complex mode, (batch, replicas).
        targets: Of `SignCost`.
        patterns: All inputs of the table, shape (patterns, ...).
        answers: Zeros and ones, shape (patterns,).
        every: Steps between two notes.
        points: How many notes are kept at most; the first is that of the start.
        **options: Of `HamiltonianEcho`.

    Attributes:
        course: The notes, what each replica's output was as a share of the target: (points, patterns, replicas, 2), the
            last real and imaginary part; NaN where there is none yet.
    """

    patterns: Tensor
    answers: Tensor
    course: Tensor
    taken: Tensor

    def __init__(
        self,
        system: HamiltonianSystem,
        targets: Tensor,
        patterns: Tensor,
        answers: Tensor,
        *,
        every: int = 50,
        points: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(system, SignCost(targets), **options)
        self.every = every
        self.register_buffer("patterns", patterns.to(system.theta.dtype))
        self.register_buffer("answers", answers.clone())
        self.register_buffer("course", targets.new_full((points, len(patterns), len(targets), 2), torch.nan))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """As the rule, and note from time to time."""
        if phase == self.phases[0]:
            self.note()
        return super().assign_credit(x, y, phase)

    def note(self) -> None:
        """Count a step, and note the answers before it where that is due."""
        point, rest = divmod(int(self.taken), self.every)
        if rest == 0 and point < len(self.course):
            self.course[point] = torch.view_as_real(self.shares())
        self.taken += 1

    @torch.no_grad()
    def shares(self) -> Tensor:
        """What each replica answers now as a share of its target, complex, (patterns, replicas)."""
        assert isinstance(self.loss, SignCost)
        outputs: Tensor = self.network(self.patterns)
        return outputs / self.loss.targets

    def costs(self, shares: Tensor) -> Tensor:
        """Mean over the patterns of |Ψ - target|²/|target|², (..., replicas), from shares (..., patterns, replicas)."""
        wanted = (1 - 2 * self.answers.to(shares.real))[:, None]
        return (shares - wanted).abs().square().mean(dim=-2)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of no and yes, (batch, 2), by the replicas' mean answer; equal patterns are run once."""
        assert isinstance(self.loss, SignCost)
        rows, place = x.unique(dim=0, return_inverse=True)
        outputs: Tensor = self.network(rows)
        mean = (outputs.real / self.loss.targets).clamp(-1, 1).mean(dim=-1)
        return torch.stack([mean, -mean], dim=-1)[place]
