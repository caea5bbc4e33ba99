"""Sigmoids of which no two are alike, as units of a chip are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DefectiveSigmoid(nn.Module):
    r"""Sigmoids with a defect each, fixed from the start (McCaughan et al., arXiv 2303.03986: activation defects).

        y_j = L_j / (1 + exp(-k_j (a_j - c_j))) + b_j,    k_j, L_j ~ N(1, spread²),  c_j, b_j ~ N(0, spread²)

    Args:
        units: Size of the last dimension of the input.
        spread: Standard deviation of slopes k, heights L, and shifts c and b; 0 gives plain sigmoids.

    >>> DefectiveSigmoid(3, 0.1)(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    slope: Tensor
    height: Tensor
    centre: Tensor
    floor: Tensor

    def __init__(self, units: int, spread: float) -> None:
        super().__init__()
        self.spread = spread
        for name, mean in {"slope": 1.0, "height": 1.0, "centre": 0.0, "floor": 0.0}.items():
            self.register_buffer(name, mean + spread * torch.randn(units))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each unit's own curve along the last dimension."""
        return self.height * torch.sigmoid(self.slope * (x - self.centre)) + self.floor

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"{len(self.slope)}, spread={self.spread}"
