"""The graph of the last events: a temporal kernel of the time between each two, for many windows at once.

Features stand as (events of a window, features, windows), windows last: whatever is done to all windows alike then
runs along memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from beyondprop.data.events import NO_TARGET, PADDING

Kernel = Literal["exponential", "gaussian", "linear", "spherical"]


def windows_of(x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The last events before each target of a batch, which are the nodes of its graph.

    Args:
        x: Shape (N, length, 2): gaps and marks.
        y: Likewise: where the targets are.
        size: Events of a window, K. Where fewer came before, the first ones have the mark -1.

    Returns:
        Gaps and marks, each (K, targets).
    """
    early = x.new_zeros(len(x), size - 1, 2)
    early[..., 1] = PADDING
    found = torch.cat((early, x), 1).unfold(1, size, 1)[y[..., 1] > NO_TARGET]
    gaps, marks = found.permute(1, 2, 0).contiguous().unbind()
    return gaps, marks


def ages_of(gaps: Tensor) -> Tensor:
    """How long before the last event of its window each event was, from gaps of shape (K, windows)."""
    later = torch.cat((gaps[1:], torch.zeros_like(gaps[:1])))
    return later.flip(0).cumsum(0).flip(0)


def adjacency(ages: Tensor, there: Tensor, kernel: Kernel, bandwidth: float) -> Tensor:
    r"""Edge weights between the events of windows, with b the bandwidth and d the time between two events.

    exponential :math:`b e^{-b d}`; Gaussian :math:`e^{-d^2 / b}`; linear :math:`(l - d + b) / (l + b)` with the longest
    time l in the window; spherical :math:`1 - \frac32 \frac{d}{b} + \frac12 (d / b)^3`, and 0 from b on.

    Args:
        ages: Shape (K, windows).
        there: Whether there is an event, shape (K, windows); others have no edges.
        kernel: Which.
        bandwidth: b.

    Returns:
        Shape (K, K, windows).
    """
    apart = (ages.unsqueeze(1) - ages.unsqueeze(0)).abs()
    both = there.unsqueeze(1) & there.unsqueeze(0)
    if kernel == "exponential":
        weights = torch.exp(-bandwidth * apart) * bandwidth
    elif kernel == "gaussian":
        weights = torch.exp(-apart.square() / bandwidth)
    elif kernel == "linear":
        longest = (apart * both).amax((0, 1))
        weights = (longest - apart + bandwidth) / (longest + bandwidth)
    else:
        share = (apart / bandwidth).clamp(max=1)
        weights = 1 - 1.5 * share + 0.5 * share**3
    return weights * both


class Edges(ABC):
    """The edges of all graphs of a batch, S A S with the diagonal S, which normalising moves."""

    scale: Tensor

    @abstractmethod
    def product(self, features: Tensor) -> Tensor:
        """S A S X of features X, shape (K, features, windows)."""

    @abstractmethod
    def last_row(self) -> Tensor:
        """The edges of the last event, shape (K, windows)."""

    def normalise(self, times: int) -> None:
        """D^-1/2 A D^-1/2 with the row sums D of A, so many times with the same D; rows without edges stay empty."""
        sums = self.product(torch.ones_like(self.scale).unsqueeze(1)).squeeze(1)
        self.scale = self.scale * sums.clamp(min=1e-12) ** (-times / 2)


class DenseEdges(Edges):
    """Any kernel, as a matrix for each window."""

    def __init__(self, ages: Tensor, there: Tensor, kernel: Kernel, bandwidth: float) -> None:
        self.weights = adjacency(ages, there, kernel, bandwidth)
        self.scale = there.to(ages.dtype)

    def product(self, features: Tensor) -> Tensor:
        """As `Edges.product`."""
        scale = self.scale.unsqueeze(1)
        return scale * torch.einsum("abn,bhn->ahn", self.weights, scale * features)

    def last_row(self) -> Tensor:
        """As `Edges.last_row`."""
        return self.scale[-1] * self.weights[-1] * self.scale


class ChainEdges(Edges):
    """The exponential kernel. It factorises along time, so that a product takes K steps in place of K squared.

    With e the decay from one event to the next, the events up to k are the sum F_k = X_k + e_k F_{k-1}, those after it
    B_k = e_{k+1} (X_{k+1} + B_{k+1}), and A X = b (F + B).
    """

    def __init__(self, gaps: Tensor, ages: Tensor, there: Tensor, bandwidth: float) -> None:
        self.decay, self.bandwidth = torch.exp(-bandwidth * gaps), bandwidth
        self.scale = there.to(gaps.dtype)
        self._from_last = torch.exp(-bandwidth * ages) * bandwidth

    def product(self, features: Tensor) -> Tensor:
        """As `Edges.product`."""
        found: Tensor = _ChainProduct.apply(features, self.decay, self.scale, self.bandwidth)
        return found

    def last_row(self) -> Tensor:
        """As `Edges.last_row`."""
        return self.scale[-1] * self._from_last * self.scale


class _ChainProduct(torch.autograd.Function):
    """The product of `ChainEdges`; the matrix is symmetric, and so its own backward pass."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, decay: Tensor, scale: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(decay, scale)
        ctx.bandwidth = bandwidth
        given = features * scale.unsqueeze(1)
        last = len(given) - 1
        found = torch.empty_like(given)
        found[last] = 0
        for k in range(last, 0, -1):
            torch.add(given[k], found[k], out=found[k - 1])
            found[k - 1] *= decay[k]
        for k in range(1, last + 1):
            given[k].addcmul_(decay[k], given[k - 1])  # the sum up to k, in the place of the features
        return found.add_(given).mul_((bandwidth * scale).unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        decay, scale = ctx.saved_tensors
        found: Tensor = _ChainProduct.apply(gradients[0], decay, scale, ctx.bandwidth)
        return found, None, None, None


def edges_of(gaps: Tensor, there: Tensor, kernel: Kernel, bandwidth: float, normalisations: int) -> Edges:
    """The edges of windows.

    Args:
        gaps: Shape (K, windows), in mean gaps.
        there: Whether there is an event, shape (K, windows).
        kernel: Which.
        bandwidth: Of it.
        normalisations: As `Edges.normalise`; 0 leaves them as they are.
    """
    ages = ages_of(gaps)
    edges: Edges
    if kernel == "exponential":
        edges = ChainEdges(gaps, ages, there, bandwidth)
    else:
        edges = DenseEdges(ages, there, kernel, bandwidth)
    if normalisations:
        edges.normalise(normalisations)
    return edges


class GraphConvolution(nn.Module):
    """relu(A X W + bias), drawn as in the paper's code.

    Args:
        inputs: Features of a node.
        outputs: Features after it.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        deviation = 0.5 / math.sqrt(outputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).normal_(0.02, deviation))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(2e-6, deviation))

    def forward(self, features: Tensor, edges: Edges) -> Tensor:
        """Features (K, inputs, windows) to (K, outputs, windows)."""
        # By bmm: matmul would turn the features round, and copy them.
        weight = self.weight.expand(len(features), *self.weight.shape)
        if features.requires_grad or features.shape[1] > len(self.weight):
            mixed = edges.product(torch.bmm(weight, features))
        else:  # no gradient has to come back through the product
            mixed = torch.bmm(weight, edges.product(features))
        return mixed.add_(self.bias.unsqueeze(1)).relu_()

    def extra_repr(self) -> str:
        """Its sizes."""
        outputs, inputs = self.weight.shape
        return f"{inputs}, {outputs}"
