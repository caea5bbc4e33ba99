"""The linear layer of quaternions."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.quaternion.algebra import Side, check_quarters, real_matrix, real_matrix_two_sided
from beyondprop.layers.quaternion.initialisation import Criterion, quaternion_
from beyondprop.layers.quaternion.products import LinearForm, product, wide_enough
from beyondprop.layers.quaternion.real_product import plain_product

Sides = Literal["left", "right", "both"]


def check_sides(side: str) -> None:
    """Refuse what is no side of a quaternion weight.

    Raises:
        UserError: It is another word.
    """
    if side not in ("left", "right", "both"):
        raise UserError(f"side must be 'left', 'right' or 'both', not {side!r}")


def check_width(x: Tensor, dim: int, width: int, layer: str) -> None:
    """Refuse inputs of another width than the layer's.

    Raises:
        UserError: `dim` of x has another length.
    """
    if x.shape[dim] != width:
        raise UserError(
            f"{layer} takes {width} numbers ({width // 4} quaternions) in dimension {dim}, got {x.shape[dim]}"
        )


class QuaternionLinear(nn.Module):
    """A linear layer of quaternions, with the backward pass of the GHR calculus (arXiv 2212.13082, 1409.8168).

        left:  y_i = Σ_k W_ik ⊗ x_k + b_i        dx_k = Σ_i W_ik* ⊗ G_i,    dW_ik = G_i ⊗ x_k*,    db_i = G_i
        right: y_i = Σ_k x_k ⊗ W_ik + b_i        dx_k = Σ_i G_i ⊗ W_ik*,    dW_ik = x_k* ⊗ G_i
        both:  y_i = Σ_k W_ik ⊗ x_k ⊗ V_ik + b_i

    G is the gradient of the loss at y as torch has it, four times the GHR derivative ∂L/∂y*. Widths are counted in real
    numbers, so the layer takes the place of `nn.Linear`, with a quarter of its weights (half, with both sides). One
    side costs eight products of blocks where the real matrix costs 16 (see `products`); with both sides all 16 blocks
    of the real matrix are independent, and it is multiplied as it is.

    Args:
        in_features: Real numbers of an input, a multiple of four: first all real parts, then all of i, of j, of k.
        out_features: Of an output.
        bias: Whether there is one.
        side: Where the weight stands.
        memory_saving: Whether the backward pass computes anew what was made of input and weight, their transforms or
            the real matrix, in place of holding it from the forward pass: then nothing is held but the two themselves.
        products: 8, or 16 by the real matrix, which is faster for narrow layers. By default 8 from a width of 512 on,
            of 2048 in bfloat16.

    Raises:
        UserError: A width is no multiple of four, an option is unknown; in a call, the input has another width.

    >>> layer = QuaternionLinear(8, 4)
    >>> layer.weight.shape, layer(torch.zeros(3, 8)).shape
    (torch.Size([4, 1, 2]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        side: Sides = "left",
        memory_saving: bool = False,
        products: Literal[8, 16] | None = None,
    ) -> None:
        check_quarters(in_features=in_features, out_features=out_features)
        check_sides(side)
        check_products(products)
        super().__init__()
        self.in_features, self.out_features, self.side = in_features, out_features, side
        self.memory_saving, self.products = memory_saving, products
        shape = (4, out_features // 4, in_features // 4)
        self.weight = nn.Parameter(torch.empty(shape))
        self.right_weight = nn.Parameter(torch.empty(shape)) if side == "both" else None
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, criterion: Criterion = "he") -> None:
        """Draw the weights as `quaternion_`, and set biases to 0; right weights of two are unit quaternions."""
        quaternion_(self.weight, self.in_features // 4, self.out_features // 4, criterion)
        if self.right_weight is not None:
            unit_(self.right_weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def real_matrix(self) -> Tensor:
        """The real matrix of the layer, shape (out_features, in_features)."""
        if self.right_weight is not None:
            return real_matrix_two_sided(self.weight, self.right_weight)
        return real_matrix(self.weight, cast(Side, self.side))

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (..., out_features) for x of shape (..., in_features)."""
        check_width(x, -1, self.in_features, "QuaternionLinear")
        rows, keep = x.reshape(math.prod(x.shape[:-1]), self.in_features), not self.memory_saving
        width = min(self.in_features, self.out_features)
        if self.right_weight is not None:
            y = plain_product(LinearForm(), rows, (self.weight, self.right_weight), self.bias, keep=keep)
        elif self.products == 8 or (self.products is None and wide_enough(width, x, 512, 2048)):
            y = product(rows, self.weight, self.bias, LinearForm(cast(Side, self.side)), keep=keep)
        else:
            y = plain_product(LinearForm(cast(Side, self.side)), rows, (self.weight,), self.bias, keep=keep)
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"side={self.side}"
        )


def check_products(products: int | None) -> None:
    """Refuse another number of block products than there is a way for.

    Raises:
        UserError: It is neither 8 nor 16.
    """
    if products not in (8, 16, None):
        raise UserError(f"products must be 8, 16 or None, not {products!r}")


def unit_(weight: Tensor) -> Tensor:
    """Draw unit quaternions, uniformly over all rotations, in place."""
    with torch.no_grad():
        weight.copy_(F.normalize(torch.randn_like(weight), dim=0))
    return weight
