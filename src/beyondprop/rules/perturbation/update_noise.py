"""Updates that do not land where they were meant to, as those of analog memories."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from beyondprop.errors import UserError


def add_update_noise(optimizer: Optimizer, deviation: float) -> RemovableHandle:
    """Add noise to every parameter after each step that has moved it (McCaughan et al., arXiv 2303.03986).

        θ ← θ + N(0, deviation²), drawn for each parameter by itself

    The authors' code draws one number for all parameters; their text has one for each.

    Args:
        optimizer: Any; a parameter whose `.grad` is None is left alone, as the optimizer does.
        deviation: In units of the parameters.

    Returns:
        A handle, whose `remove()` ends it.

    Raises:
        UserError: The deviation is negative.

    >>> parameter = torch.nn.Parameter(torch.zeros(3))
    >>> optimizer = torch.optim.SGD([parameter], lr=0.1)
    >>> handle = add_update_noise(optimizer, 0.5)
    """
    if not deviation >= 0:
        raise UserError(f"the deviation of update noise must be at least 0, got {deviation}")

    @torch.no_grad()
    def disturb(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(torch.randn_like(parameter), alpha=deviation)

    return optimizer.register_step_post_hook(disturb)
