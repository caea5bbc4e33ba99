"""Activations of which no two neurons' are alike, as those of a chip are not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DefectiveActivation(nn.Module):
    r"""An activation f of which every neuron j has a curve of its own (arXiv 2303.03986, Section IV).

        L_j f(k_j (a - x0_j)) + y0_j,      k_j, L_j ~ N(1, σ²),   x0_j, y0_j ~ N(0, σ²)

    drawn once. With f the logistic function this is the paper's L / (1 + exp(-k (a - x0))) + y0.

    Args:
        activation: f.
        shape: Of a sample's neurons, such as `(units,)`.
        deviation: σ.
        generator: Of the draws.

    >>> DefectiveActivation(nn.Sigmoid(), (3,), 0.1)(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    k: Tensor
    L: Tensor
    x0: Tensor
    y0: Tensor

    def __init__(
        self, activation: nn.Module, shape: Sequence[int], deviation: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.activation = activation
        for name, mean in (("k", 1.0), ("L", 1.0), ("x0", 0.0), ("y0", 0.0)):
            self.register_buffer(name, mean + deviation * torch.randn(*shape, generator=generator))

    def forward(self, a: Tensor) -> Tensor:
        """Give each neuron's own answer to its input a, shape (batch, *shape)."""
        return self.L * self.activation(self.k * (a - self.x0)) + self.y0
