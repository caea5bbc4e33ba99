"""What torch does to a function besides calling it."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is at work.

    Both know torch's own operations, and of others what these tell them.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
