"""An exponential moving average of a rule's weights, which takes their place wherever the rule predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from beyondprop.errors import UserError
from beyondprop.layers.batch_norms import running_statistics


class WeightAverage:
    """The average e_n = d_n e_{n-1} + (1 - d_n) w_n of the weights w_n after step n, from e_0 = w_0 on.

    d_n = min(decay, n / (9 + n)): an average over about the last ninth of the steps until there are enough of them for
    `decay`, so that a short training is not held at its first weights.

    What is averaged are the parameters and the running statistics of batch norms, which belong to them: those of the
    present weights do not fit the averaged ones. Other buffers (counters, masks, feedback weights) stay the rule's.
    The rule itself knows nothing of it, and the optimizer goes on from the weights that it has made.

    Args:
        rule: Whose weights are averaged; they may be changed in place or replaced between calls.
        decay: Highest d_n, above 0 and below 1.

    Raises:
        UserError: The decay is out of range.
    """

    def __init__(self, rule: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(f"ema must be at least 0 and below 1, not {decay}")
        self.rule, self.decay, self.steps = rule, decay, 0
        self._average = _copies(rule)

    @property
    def nbytes(self) -> int:
        """Size of the average."""
        return sum(tensor.nbytes for tensor in self._average.values())

    def update(self) -> None:
        """Take in the weights after one more step."""
        self.steps += 1
        decay = min(self.decay, self.steps / (9 + self.steps))
        present = _averaged_tensors(self.rule)
        get_ema_multi_avg_fn(decay)([self._average[name] for name in present], list(present.values()), self.steps)

    def apply(self) -> None:
        """Write the average into the rule, for good."""
        _write(self._average, self.rule)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the rule holds the average; afterwards its own weights again."""
        own = _copies(self.rule)
        self.apply()
        try:
            yield
        finally:
            _write(own, self.rule)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint needs beside the average itself, which it holds as the rule's weights."""
        return {"steps": self.steps, "own_weights": _copies(self.rule)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `saved`; the rule holds the average and gets its own weights back."""
        self.steps, self._average = saved["steps"], _copies(self.rule)
        _write(saved["own_weights"], self.rule)


def _averaged_tensors(rule: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in rule.named_parameters()} | running_statistics(rule)


def _copies(rule: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in _averaged_tensors(rule).items()}


def _write(values: dict[str, Tensor], rule: nn.Module) -> None:
    present = _averaged_tensors(rule)
    torch._foreach_copy_([present[name] for name in values], list(values.values()))
