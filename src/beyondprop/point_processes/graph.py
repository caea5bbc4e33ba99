"""The graph of the last events: a temporal kernel of the time between each two, for many windows at once."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from beyondprop.data.events import PADDING

Kernel = Literal["exponential", "gaussian", "linear", "spherical"]


def windows_of(x: Tensor, y: Tensor, size: int) -> Tensor:
    """The last events before each target of a batch, as a graph has them for nodes.

    Args:
        x: Shape (N, length, 2): gaps and marks.
        y: Likewise: where the targets are.
        size: Events of a window, K. Where fewer came before, the first ones have the mark -1.

    Returns:
        Shape (targets, 2, K).
    """
    early = x.new_zeros(len(x), size - 1, 2)
    early[..., 1] = PADDING
    return torch.cat((early, x), 1).unfold(1, size, 1)[y[..., 1] > -2]


def ages_of(gaps: Tensor) -> Tensor:
    """How long before the last event of its window each event was, from gaps of shape (n, K)."""
    later = torch.cat((gaps[:, 1:], torch.zeros_like(gaps[:, :1])), 1)
    return later.flip(1).cumsum(1).flip(1)


def adjacency(ages: Tensor, there: Tensor, kernel: Kernel, bandwidth: float) -> Tensor:
    r"""Edge weights between the events of windows, with b the bandwidth and d the time between two events.

    exponential :math:`b e^{-b d}`; Gaussian :math:`e^{-d^2 / b}`; linear :math:`(l - d + b) / (l + b)` with the longest
    time l in the window; spherical :math:`1 - \frac32 \frac{d}{b} + \frac12 (d / b)^3`, and 0 from b on.

    Args:
        ages: Shape (n, K).
        there: Whether there is an event, shape (n, K); others have no edges.
        kernel: Which.
        bandwidth: b.

    Returns:
        Shape (n, K, K).
    """
    apart = (ages.unsqueeze(2) - ages.unsqueeze(1)).abs()
    both = there.unsqueeze(2) & there.unsqueeze(1)
    if kernel == "exponential":
        weights = torch.exp(-bandwidth * apart) * bandwidth
    elif kernel == "gaussian":
        weights = torch.exp(-apart.square() / bandwidth)
    elif kernel == "linear":
        longest = (apart * both).amax((1, 2), keepdim=True)
        weights = (longest - apart + bandwidth) / (longest + bandwidth)
    else:
        share = (apart / bandwidth).clamp(max=1)
        weights = 1 - 1.5 * share + 0.5 * share**3
    return weights * both


def normalised(weights: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 with the row sums D; rows without edges stay empty."""
    root = weights.sum(2).clamp(min=1e-12).rsqrt()
    return root.unsqueeze(2) * weights * root.unsqueeze(1)


class GraphConvolution(nn.Module):
    """relu(A X W + bias), drawn as in the paper's code.

    Args:
        inputs: Features of a node.
        outputs: Features after it.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        deviation = 0.5 / math.sqrt(outputs)
        self.weight = nn.Parameter(torch.empty(inputs, outputs).normal_(0.02, deviation))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(2e-6, deviation))

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Features (n, K, inputs) and edges (n, K, K) to (n, K, outputs)."""
        return torch.relu(torch.baddbmm(self.bias, weights, features @ self.weight))

    def extra_repr(self) -> str:
        """Its sizes."""
        return ", ".join(map(str, self.weight.shape))
