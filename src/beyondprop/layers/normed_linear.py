"""A linear layer between two norms, which can pass tangents on by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.layers.grouped_linear import GroupedLinear

EPS = 1e-5
Reach = Literal["group", "patch"]


class NormedLinear(nn.Module):
    """z = norm(W norm(x) + b) of features (batch, patches, channels), by norms that have no parameters.

    The Jacobian of such a norm is symmetric, J = (1 - 11ᵀ/n - x̂x̂ᵀ/n)/σ, so that tangents pass it on the way up by the
    very kernel by which signals pass it on the way down.

    Args:
        linear: Mixes the last dimension of what it gets.
        tokens: Whether that is to be the patches, for each channel by the same matrix; else it is the channels.
        groups: Of the channels, normed each by itself.
        reach: Which local losses depend on one number of the output: those of its own patch and group, where
            channels stand in the order of the groups that they lead to; or those of its patch and of all groups.

    >>> NormedLinear(nn.Linear(6, 4))(torch.randn(5, 7, 6)).shape
    torch.Size([5, 7, 4])
    """

    def __init__(
        self, linear: nn.Linear | GroupedLinear, *, tokens: bool = False, groups: int = 1, reach: Reach = "group"
    ) -> None:
        super().__init__()
        self.linear, self.tokens, self.groups, self.reach = linear, tokens, groups, reach

    def forward(self, x: Tensor) -> Tensor:
        """Return z."""
        a = by_group(x, self.groups)
        a = F.layer_norm(a, a.shape[-1:], eps=EPS).flatten(2)
        y = by_group(self.linear(a.mT if self.tokens else a), self.groups)
        z = F.layer_norm(y, y.shape[-1:], eps=EPS).flatten(2)
        return z.mT if self.tokens else z

    def evaluate(self, x: Tensor, dx: Tensor | None = None, directions: Sequence[Tensor] = ()) -> Evaluation:
        """Compute the output and its tangent.

        Args:
            x: The input.
            dx: Its tangent, None for zero.
            directions: Along which weight and bias move; empty where they stand still.
        """
        a, before = _norm(x, self.groups)
        da = None if dx is None else before.derivative(dx)
        if self.tokens:
            a, da = a.mT, None if da is None else da.mT
        z, behind = _norm(self.linear(a), self.groups)
        dy = None if da is None else self.product(da, self.linear.weight)
        if directions:
            moved = self.product(a, directions[0]) + directions[1]
            dy = moved if dy is None else dy + moved
        dz = None if dy is None else behind.derivative(dy)
        if self.tokens:
            z, dz = z.mT, None if dz is None else dz.mT
        return Evaluation(self, a, behind, z, dz)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply by a weight of the linear layer's shape, without its bias."""
        return self.linear.product(x, weight) if isinstance(self.linear, GroupedLinear) else F.linear(x, weight)


class Norm(NamedTuple):
    """One evaluation of a norm: its input, and what it was divided by."""

    x: Tensor
    mean: Tensor
    rstd: Tensor

    def derivative(self, change: Tensor) -> Tensor:
        """Multiply a tangent, or a signal, by J = Jᵀ."""
        found: Tensor = torch.ops.aten.native_layer_norm_backward(
            change.reshape(self.x.shape).to(self.x.dtype),
            self.x,
            self.x.shape[-1:],
            self.mean,
            self.rstd,
            None,
            None,
            [True, False, False],
        )[0]
        return found.view(change.shape)


class Evaluation(NamedTuple):
    """One evaluation of a layer.

    Attributes:
        layer: Which.
        a: What its matrix was multiplied with.
        norm: That behind the matrix.
        z: The output.
        dz: Its tangent, None for zero.
    """

    layer: NormedLinear
    a: Tensor
    norm: Norm
    z: Tensor
    dz: Tensor | None

    def gradients(self, signal: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Multiply a signal of the output's shape by the derivative with respect to weight and bias."""
        linear: Any = self.layer.linear
        dy = self.norm.derivative(signal.mT if self.layer.tokens else signal)
        if isinstance(linear, GroupedLinear):
            yield linear.weight, linear.weight_gradient(self.a, dy)
        else:
            yield linear.weight, dy.flatten(0, 1).mT @ self.a.flatten(0, 1)
        yield linear.bias, dy.sum(dim=(0, 1))


def by_group(x: Tensor, groups: int) -> Tensor:
    """Cut the last dimension into groups."""
    return x.unflatten(-1, (groups, -1))


def _norm(x: Tensor, groups: int) -> tuple[Tensor, Norm]:
    x = by_group(x.contiguous(), groups)
    out, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)
    return out.flatten(2), Norm(x, mean, rstd)
