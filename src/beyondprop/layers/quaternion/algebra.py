"""Quaternions as four blocks of real numbers, and the real matrices that stand for them.

A quaternion q = a + b i + c j + d k has four real components. Everywhere in this package a dimension of length 4n holds
n quaternions as four blocks: first all a, then all b, all c, all d. So a component of all quaternions is one slice, an
activation that acts on each number acts on each component, and networks keep the widths that they have as real ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from beyondprop.errors import UserError

Side = Literal["left", "right"]

# e_a e_b = SIGNS[a][b] e_{a xor b}, with e = (1, i, j, k).
SIGNS = ((1, 1, 1, 1), (1, -1, 1, -1), (1, -1, -1, 1), (1, 1, -1, -1))


def check_quarters(**sizes: int) -> None:
    """Refuse sizes that are no multiples of four.

    Args:
        **sizes: By the names that users know them by.

    Raises:
        UserError: One is no whole number, not above 0, or not divisible by four.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size <= 0 or size % 4:
            raise UserError(f"{name} counts real numbers, four of a quaternion: give a multiple of 4, not {size!r}")


def components(q: Tensor, dim: int = -1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of the four blocks of a dimension.

    Args:
        q: Quaternions; `dim` has length 4n.
        dim: Where their components stand.

    Raises:
        UserError: The length of `dim` is no multiple of four.
    """
    if q.ndim == 0 or q.shape[dim] == 0 or q.shape[dim] % 4:
        raise UserError(f"quaternions need a dimension of a multiple of 4 numbers, got shape {tuple(q.shape)}")
    a, b, c, d = q.chunk(4, dim)
    return a, b, c, d


def hamilton(p: Tensor, q: Tensor, dim: int = -1) -> Tensor:
    """The Hamilton product p ⊗ q, quaternion by quaternion; shapes broadcast over all other dimensions.

    >>> i, j = torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, 0])
    >>> hamilton(i, j), hamilton(j, i)  # k and -k
    (tensor([0., 0., 0., 1.]), tensor([ 0.,  0.,  0., -1.]))
    """
    a, b, c, d = components(p, dim)
    e, f, g, h = components(q, dim)
    return torch.cat(
        (
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ),
        dim,
    )


def conjugate(q: Tensor, dim: int = -1) -> Tensor:
    """q* = a - b i - c j - d k."""
    a, *rest = components(q, dim)
    return torch.cat((a, *(-part for part in rest)), dim)


def norm(q: Tensor, dim: int = -1) -> Tensor:
    """‖q‖, one number a quaternion: `dim` is a quarter as long."""
    return torch.linalg.vector_norm(torch.stack(components(q, dim)), dim=0)


def inverse(q: Tensor, dim: int = -1) -> Tensor:
    """q⁻¹ = q* / ‖q‖²; infinite or NaN where q is 0."""
    squared = sum(part * part for part in components(q, dim))
    assert isinstance(squared, Tensor)
    return conjugate(q, dim) / torch.cat((squared,) * 4, dim)


def rotate(q: Tensor, mu: Tensor, dim: int = -1) -> Tensor:
    """q^μ = μ q μ⁻¹, the rotation by which the GHR calculus tells derivatives apart."""
    return hamilton(hamilton(mu, q, dim), inverse(mu, dim), dim)


def real_matrix(weight: Tensor, side: Side = "left") -> Tensor:
    """The real matrix of x -> W ⊗ x, or of x -> x ⊗ W: 16 blocks, each component of W four times.

    Args:
        weight: Shape (4, rows, columns, ...).
        side: Where the weight stands.

    Returns:
        Shape (4 rows, 4 columns, ...).
    """
    blocks, minus = weight.unbind(0), (-weight).unbind(0)
    rows = []
    for out in range(4):
        row = []
        for column in range(4):
            component = out ^ column
            sign = SIGNS[component][column] if side == "left" else SIGNS[column][component]
            row.append(blocks[component] if sign > 0 else minus[component])
        rows.append(torch.cat(row, 1))
    return torch.cat(rows, 0)


@lru_cache
def sandwich(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix that takes the 16 products V_q W_p to the real matrix of x -> W ⊗ x ⊗ V, shape (16, 16).

    Entry (4 out + column, 4 p + q) is the sign with which W_p V_q stands in block (out, column); no block is a sum of
    fewer than four of them, and the 16 blocks are independent: nothing can be saved, unlike with one weight.
    """
    with torch.inference_mode(mode=False):
        found = torch.zeros(16, 16, dtype=dtype)
        for column in range(4):
            for p in range(4):
                for q in range(4):
                    middle = p ^ column
                    found[4 * (middle ^ q) + column, 4 * p + q] = SIGNS[p][column] * SIGNS[middle][q]
        return found.to(device)


def real_matrix_two_sided(left: Tensor, right: Tensor) -> Tensor:
    """The real matrix of x -> Σ_k W_ik ⊗ x_k ⊗ V_ik.

    Args:
        left: W, shape (4, rows, columns, ...).
        right: V, of the same shape.

    Returns:
        Shape (4 rows, 4 columns, ...).
    """
    products = (left.unsqueeze(1) * right.unsqueeze(0)).flatten(0, 1)
    blocks = sandwich(left.dtype, left.device) @ products.flatten(1)
    return blocks.view(4, 4, *left.shape[1:]).transpose(1, 2).reshape(4 * left.shape[1], -1, *left.shape[3:])
