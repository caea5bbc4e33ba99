"""The GHR calculus of quaternion functions (Xu, Jahanchahi, Took and Mandic, arXiv 1409.8168), in numbers.

A quaternion function f(q) of q = a + b i + c j + d k has four partial derivatives f_a, f_b, f_c, f_d, all quaternions.
The GHR derivatives gather them along rotated axes i^μ = μ i μ⁻¹, j^μ and k^μ:

    left:   ∂f/∂q^μ = ¼ (f_a - f_b i^μ - f_c j^μ - f_d k^μ),    ∂f/∂q^μ* = ¼ (f_a + f_b i^μ + f_c j^μ + f_d k^μ)
    right:  ∂f/∂q^μ = ¼ (f_a - i^μ f_b - j^μ f_c - k^μ f_d),    ∂f/∂q^μ* = ¼ (f_a + i^μ f_b + j^μ f_c + k^μ f_d)

They obey a product rule, in which a factor's rotation stands for the product not commuting, and a chain rule over
the four rotations of the inner function (`product_rule`, `chain_rule`). The plain sum of partial derivatives along 1,
i, j and k, `naive`, which quaternion networks were long derived by, obeys neither. `symbolic` has the same derivatives
of polynomials as formulas.

Quaternions are tensors of four numbers here; a function takes one and gives one, or a real number.

>>> q = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
>>> derivative(lambda q: hamilton(q, conjugate(q)), q)  # of ‖q‖²: q* / 2
tensor([ 0.5000, -1.0000, -1.5000, -2.0000], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from beyondprop.checks import check_number
from beyondprop.errors import UserError
from beyondprop.layers.quaternion.algebra import Side, conjugate, hamilton, inverse, rotate

QuaternionFunction = Callable[[Tensor], Tensor]


def partials(f: QuaternionFunction, q: Tensor, *, step: float | None = None) -> Tensor:
    """The partial derivatives f_a, f_b, f_c, f_d, shape (4, 4): one quaternion a row.

    Args:
        f: Maps a quaternion, shape (4,), to a quaternion, or to a real number of shape ().
        q: Where, shape (4,), float64 for ten digits.
        step: Of central differences, for what autograd cannot differentiate; by default autograd does it, exactly.

    Raises:
        UserError: q is no quaternion, f gives none, or the step is not above 0.
    """
    _check(q)
    if step is None:
        return torch.autograd.functional.jacobian(lambda q: _value(f, q), q).T
    check_number(step=step, above=True)
    moves = step * torch.eye(4, dtype=q.dtype, device=q.device)
    return torch.stack([(_value(f, q + move) - _value(f, q - move)) / (2 * step) for move in moves])


def derivative(
    f: QuaternionFunction,
    q: Tensor,
    mu: Tensor | None = None,
    *,
    conjugated: bool = False,
    side: Side = "left",
    step: float | None = None,
) -> Tensor:
    """The GHR derivative ∂f/∂q^μ, or ∂f/∂q^μ*, shape (4,).

    Args:
        f: As of `partials`.
        q: Where.
        mu: The quaternion μ, any but 0; 1 where it is None.
        conjugated: Whether by the conjugate q^μ*.
        side: On which side of the axes the partial derivatives stand: f_b i^μ of a left derivative.
        step: As of `partials`.

    Raises:
        UserError: As `partials`; or μ is 0, or the side is unknown.
    """
    return _gather(partials(f, q, step=step), mu, conjugated, side)


def naive(f: QuaternionFunction, q: Tensor) -> Tensor:
    """The sum of partial derivatives f_a + f_b i + f_c j + f_d k, which obeys no product rule and no chain rule."""
    found = partials(f, q)
    return sum((hamilton(f_e, e) for f_e, e in zip(found, _axes(q), strict=True)), torch.zeros_like(q))


def product_rule(
    f: QuaternionFunction,
    g: QuaternionFunction,
    q: Tensor,
    mu: Tensor | None = None,
    *,
    conjugated: bool = False,
    side: Side = "left",
) -> Tensor:
    """The GHR derivative of f(q) ⊗ g(q) from those of f and g; arguments as of `derivative`.

        left:   ∂(fg)/∂q^μ = f ∂g/∂q^μ + (∂f/∂q^{gμ}) g
        right:  ∂(fg)/∂q^μ = (∂f/∂q^μ) g + f ∂g/∂q^{f⁻¹μ}

    Raises:
        UserError: As `derivative`; or the factor by which is rotated is 0.
    """
    mu = _one(q) if mu is None else mu
    f_q, g_q = _value(f, q), _value(g, q)
    if side == "left":
        rotated = derivative(f, q, hamilton(g_q, mu), conjugated=conjugated)
        return hamilton(f_q, derivative(g, q, mu, conjugated=conjugated)) + hamilton(rotated, g_q)
    _nonzero(f_q, "f(q), by which is rotated,")
    rotated = derivative(g, q, hamilton(inverse(f_q), mu), conjugated=conjugated, side=side)
    return hamilton(derivative(f, q, mu, conjugated=conjugated, side=side), g_q) + hamilton(f_q, rotated)


def chain_rule(
    f: QuaternionFunction,
    g: QuaternionFunction,
    q: Tensor,
    mu: Tensor | None = None,
    *,
    conjugated: bool = False,
    side: Side = "left",
) -> Tensor:
    """The GHR derivative of f(g(q)) from those of f and g; arguments as of `derivative`.

    left:   ∂f(g)/∂q^μ = Σ_ν (∂f/∂g^ν) (∂g^ν/∂q^μ),    ν over 1, i, j, k and g^ν = ν g ν⁻¹
    right:  ∂f(g)/∂q^μ = Σ_ν (∂g^ν/∂q^μ) (∂f/∂g^ν)
    """
    total = torch.zeros_like(q)
    for nu in _axes(q):
        outer = derivative(f, _value(g, q), nu, side=side)
        inner = derivative(
            lambda q, nu=nu: rotate(_value(g, q), nu),  # type: ignore[misc]
            q,
            mu,
            conjugated=conjugated,
            side=side,
        )
        total = total + (hamilton(outer, inner) if side == "left" else hamilton(inner, outer))
    return total


def naive_product_rule(f: QuaternionFunction, g: QuaternionFunction, q: Tensor) -> Tensor:
    """What `naive` of f(q) ⊗ g(q) would be by the product rule of real numbers; it is not."""
    return hamilton(naive(f, q), _value(g, q)) + hamilton(_value(f, q), naive(g, q))


def naive_chain_rule(f: QuaternionFunction, g: QuaternionFunction, q: Tensor) -> Tensor:
    """What `naive` of f(g(q)) would be by the chain rule of real numbers; it is not."""
    return hamilton(naive(f, _value(g, q)), naive(g, q))


def gradient(loss: Callable[[Tensor], Tensor], q: Tensor) -> Tensor:
    """The direction of steepest ascent ∂L/∂q* of a real loss: a quarter of its real gradient, read as a quaternion."""
    return derivative(loss, q, conjugated=True)


def _gather(found: Tensor, mu: Tensor | None, conjugated: bool, side: Side) -> Tensor:
    if side not in ("left", "right"):
        raise UserError(f"side must be 'left' or 'right', not {side!r}")
    axes = _axes(found[0])
    if mu is not None:
        _check(mu)
        _nonzero(mu, "μ")
        axes = rotate(axes, mu.to(found.dtype))
    total = found[0]
    for f_e, axis in zip(found[1:], axes[1:], strict=True):
        term = hamilton(f_e, axis) if side == "left" else hamilton(axis, f_e)
        total = total + term if conjugated else total - term
    return total / 4


def _axes(q: Tensor) -> Tensor:
    """1, i, j and k."""
    return torch.eye(4, dtype=q.dtype, device=q.device)


def _one(q: Tensor) -> Tensor:
    return _axes(q)[0]


def _value(f: QuaternionFunction, q: Tensor) -> Tensor:
    """f(q), a real number made a quaternion."""
    found = f(q)
    if not isinstance(found, Tensor) or found.shape not in ((4,), ()):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"the function must give a quaternion, shape (4,), or a real number, shape (), not {shape}")
    return found if found.ndim else torch.cat((found[None], found.new_zeros(3)))


def _check(q: Tensor) -> None:
    if not isinstance(q, Tensor) or q.shape != (4,) or not q.is_floating_point():
        shape = tuple(q.shape) if isinstance(q, Tensor) else type(q).__name__
        raise UserError(f"a quaternion is a tensor of four floating-point numbers here, got {shape}")


def _nonzero(q: Tensor, what: str) -> None:
    if not q.any():
        raise UserError(f"{what} must not be 0")


__all__ = [
    "chain_rule",
    "conjugate",
    "derivative",
    "gradient",
    "hamilton",
    "naive",
    "naive_chain_rule",
    "naive_product_rule",
    "partials",
    "product_rule",
]
