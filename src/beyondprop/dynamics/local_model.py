"""The shared local model: what every node of a network would do alone, as a small neural network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LocalModel(nn.Module):
    """x' = s' (W3 tanh(W2 tanh(W1 z + b1) + b2) + b3 + A z),  z = ((x, u) - m) / s.

    A perceptron with two hidden layers and a linear path, on states of a node and what drives all nodes alike. It is
    the same for every node. Its Jacobians are written out, for curvature needs them at every sample.

    Args:
        components: Numbers of a node's state.
        drives: Numbers of the drive u, 0 for an autonomous system.
        hidden: Width of the two hidden layers.
    """

    mean: Tensor
    scale: Tensor
    rate: Tensor

    def __init__(self, components: int, drives: int = 0, hidden: int = 16) -> None:
        super().__init__()
        self.components, self.drives = components, drives
        inputs = components + drives
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.last, self.linear = nn.Linear(hidden, components), nn.Linear(inputs, components, bias=False)
        self.reset_parameters()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("rate", torch.ones(components))

    def reset_parameters(self) -> None:
        """Draw the hidden layers anew; the slope is zero then."""
        nn.init.xavier_normal_(self.first.weight)
        nn.init.normal_(self.first.bias)  # bends at different places of the attractor
        self.second.reset_parameters()
        nn.init.xavier_normal_(self.second.weight)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The slope.

        Args:
            x: States, with the drive behind them, shape (..., components + drives).

        Returns:
            Of shape (..., components), in units of the state per unit of time.
        """
        z = (x - self.mean) / self.scale
        hidden = torch.tanh(self.second(torch.tanh(self.first(z))))
        return (self.last(hidden) + self.linear(z)) * self.rate

    @torch.no_grad()
    def jacobians(self, x: Tensor, *, parameters: bool = True) -> tuple[Tensor, Tensor | None]:
        """Derivatives of the slope.

        Args:
            x: As `forward` takes it, shape (rows, components + drives).
            parameters: Whether those by the parameters are wanted.

        Returns:
            By the state, shape (rows, components, components); by the parameters in the order of `parameters()`, each
            flattened, shape (rows, components, count), or None.
        """
        z = (x - self.mean) / self.scale
        h1 = torch.tanh(self.first(z))
        h2 = torch.tanh(self.second(h1))
        by_second = (self.rate[:, None] * self.last.weight) * (1 - h2.square())[:, None]  # (rows, components, hidden)
        by_first = (by_second @ self.second.weight) * (1 - h1.square())[:, None]
        linear = self.rate[:, None] * self.linear.weight
        by_state = ((by_first @ self.first.weight + linear) / self.scale)[..., : self.components]
        if not parameters:
            return by_state, None
        rate = torch.diag(self.rate)
        parts = (
            torch.einsum("rci,rj->rcij", by_first, z),
            by_first,
            torch.einsum("rci,rj->rcij", by_second, h1),
            by_second,
            torch.einsum("ca,rj->rcaj", rate, h2),
            rate.expand(len(x), -1, -1),
            torch.einsum("ca,rj->rcaj", rate, z),
        )
        return by_state, torch.cat([part.flatten(2) for part in parts], dim=2)
