"""A linear layer in which groups of outputs see groups of inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_whole
from beyondprop.errors import UserError


class GroupedLinear(nn.Module):
    """Channels in groups, each with a matrix of its own: a block-diagonal linear layer.

        z_{g,j} = Σ_i w_{g,j,i} x_{g,i} + b_{g,j}

    Args:
        in_features: Of all groups together.
        out_features: Of all groups together.
        groups: They divide both.

    Raises:
        UserError: The groups do not divide the features.

    >>> layer = GroupedLinear(6, 4, groups=2)
    >>> layer.weight.shape, layer(torch.randn(5, 7, 6)).shape  # as of a convolution with groups
    (torch.Size([4, 3]), torch.Size([5, 7, 4]))
    """

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        check_whole(1, in_features=in_features, out_features=out_features, groups=groups)
        if in_features % groups or out_features % groups:
            raise UserError(f"{groups} groups do not divide {in_features} inputs and {out_features} outputs")
        super().__init__()
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        self.weight = nn.Parameter(torch.empty(out_features, in_features // groups))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from U(-b, b) with b = 1/sqrt(inputs of an output), as torch's own layers do."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each group of the last dimension by its own matrix."""
        return self.product(x, self.weight) + self.bias

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply by a weight of the shape of the layer's own, without the bias."""
        if self.groups == 1:
            return F.linear(x, weight)
        rows = self._by_group(x)
        return self._joined(rows @ weight.unflatten(0, (self.groups, -1)).mT, x)

    def transposed(self, signal: Tensor, weight: Tensor) -> Tensor:
        """Multiply what has the output's shape by a weight's transpose, to the input's shape."""
        return self._joined(self._by_group(signal) @ weight.unflatten(0, (self.groups, -1)), signal)

    def weight_gradient(self, x: Tensor, signal: Tensor) -> Tensor:
        """Sum signal ⊗ x over all but the last dimension, to the weight's shape."""
        if self.groups == 1:
            return signal.flatten(0, -2).mT @ x.flatten(0, -2)
        return (self._by_group(signal).mT @ self._by_group(x)).flatten(0, 1)

    def _by_group(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.groups, x.shape[-1] // self.groups).transpose(0, 1)

    @staticmethod
    def _joined(rows: Tensor, like: Tensor) -> Tensor:
        return rows.transpose(0, 1).reshape(*like.shape[:-1], -1)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, groups={self.groups}"
