"""A recurrent classifier that reads an image row by row."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RowReader(nn.Module):
    """A plain recurrent network over the rows of an image, written as a loop.

        s_t = tanh(W x_t + U s_{t-1} + b),    scores = Σ_t V_t s_t + c

    Args:
        image: Channels, height and width; row t of all channels is x_t.
        classes: Scores a sample.
        hidden: Length of the state.
    """

    def __init__(self, image: tuple[int, int, int], classes: int, *, hidden: int = 256) -> None:
        super().__init__()
        channels, height, width = image
        self.read = nn.Linear(channels * width, hidden)
        self.remember = nn.Linear(hidden, hidden, bias=False)
        self.activation = nn.Tanh()
        self.output = nn.Linear(height * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, shape (batch, classes), for images of shape (batch, channels, height, width)."""
        state, states = x.new_zeros(len(x), self.read.out_features), []
        for row in x.unbind(dim=2):
            state = self.activation(self.read(row.flatten(1)) + self.remember(state))
            states.append(state)
        return self.output(torch.cat(states, dim=1))
