"""Products of quaternion weights with quaternion inputs by the real matrix, of 16 blocks, and what a layer's form is.

Narrow layers, short dtypes and two-sided weights are multiplied so, and so is whatever is differentiated more than
once. Autograd would hold the matrix, four times the size of one weight, for the backward pass; `MatrixAnew` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from beyondprop.layers.quaternion.algebra import Side, real_matrix, real_matrix_two_sided


class Form(Protocol):
    """How the blocks of a layer's tensors are transformed and multiplied; `spread` ones are as `multiply` takes them.

    All but `matrix` and `plain` write in place and carry no graph.
    """

    def matrix(self, weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Build the real matrix, of 16 blocks, from one weight, or from a left and a right one."""

    def plain(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply by the real matrix."""

    def plain_gradients(
        self, g: Tensor, x: Tensor, matrix: Tensor, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Give the gradients of `plain` for x and the matrix, where they are wanted."""

    def add_bias(self, y: Tensor, bias: Tensor) -> None:
        """Add it to outputs."""

    def bias_gradient(self, g: Tensor, bias: Tensor) -> Tensor:
        """Sum over all that the bias was added to."""

    def spread(self, x: Tensor, turned: str = "") -> Tensor:
        """Transform inputs, or gradients of outputs."""

    def gather(self, products: Tensor, turned: str = "") -> Tensor:
        """Transform back to outputs, or gradients of inputs."""

    def multiply(self, u: Tensor, v: Tensor) -> Tensor:
        """Multiply block by block."""

    def input_gradient(self, q: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """Transpose `multiply` in its first factor, which has the shape of x."""

    def weight_gradient(self, q: Tensor, u: Tensor, weight: Tensor) -> Tensor:
        """Transpose `multiply` in its second factor, which has the shape of the weight."""

    def mend_output(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """y_k -= 2 s_k x_j W_m."""

    def mend_input(self, dx: Tensor, g: Tensor, weight: Tensor) -> Tensor:
        """dx_j -= 2 s_k G_k W_m."""

    def mend_weight(self, dW: Tensor, g: Tensor, x: Tensor) -> Tensor:
        """dW_m -= 2 s_k G_k x_j; dW may be of a higher precision."""


def built(weights: Sequence[Tensor], side: Side, dtype: torch.dtype) -> Tensor:
    """The real matrix of one weight on a side, or of two: their products are taken in the weights' own precision."""
    if len(weights) == 1:
        return real_matrix(weights[0].to(dtype), side)
    with torch.autocast(weights[0].device.type, enabled=False):
        return real_matrix_two_sided(*weights).to(dtype)


class MatrixAnew(Function):
    """y by the real matrix of 16 blocks, of which nothing is held: the backward pass builds it anew from the weights.

    `apply(form, x, bias, *weights)` gives y; autograd alone would hold the matrix, four times the size of one weight.
    """

    @staticmethod
    def forward(form: Form, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        """Multiply in the precision of x."""
        return form.plain(x, form.matrix(weights, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the input and the weights."""
        del output
        ctx.form, x, bias, *weights = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, bias, *weights)
        ctx.save_for_forward(x, *weights)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, bias and weights, as autograd would through the matrix."""
        form, (x, bias, *weights) = ctx.form, ctx.saved_tensors
        if g is None:
            return (None,) * (3 + len(weights))
        if torch.is_grad_enabled():
            return None, *differentiable_gradients(form, x, weights, bias, g)
        wanted = ctx.needs_input_grad
        free = [w.detach().requires_grad_(want) for w, want in zip(weights, wanted[3:], strict=True)]
        with torch.enable_grad():
            matrix = form.matrix(free, x.dtype)
        dx, dM = form.plain_gradients(g, x, matrix.detach(), (wanted[1], any(wanted[3:])))
        asked = [w for w in free if w.requires_grad]
        folded = iter(torch.autograd.grad(matrix, asked, dM) if asked else ())
        db = form.bias_gradient(g, bias) if wanted[2] else None
        return None, dx, db, *(next(folded) if want else None for want in wanted[3:])

    @staticmethod
    def jvp(ctx: Any, _form: None, dx: Tensor | None, db: Tensor | None, *dWs: Tensor | None) -> Tensor:
        """Push tangents forward: y is linear in the input, and in each weight."""
        x, *weights = ctx.saved_tensors
        found = plain_product(ctx.form, torch.zeros_like(x) if dx is None else dx, weights, db)
        for place, dW in enumerate(dWs):
            if dW is not None:
                moved = [*weights[:place], dW, *weights[place + 1 :]]
                found = found + plain_product(ctx.form, x, moved, None)
        return found

    @staticmethod
    def vmap(_info: Any, in_dims: Any, form: Form, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Any:
        """Multiply many at once."""
        many = torch.vmap(lambda x, bias, *weights: plain_product(form, x, weights, bias), in_dims[1:])
        return many(x, bias, *weights), 0


def plain_product(
    form: Form, x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, *, keep: bool = True
) -> Tensor:
    """Multiply by the real matrix in the precision of x.

    Args:
        form: `LinearForm` or `ConvolutionForm`.
        x: Inputs, as the form takes them.
        weights: One, or a left and a right one.
        bias: Of the outputs.
        keep: Whether the real matrix is held for the backward pass.
    """
    x = lowered(x)
    if not keep:
        return MatrixAnew.apply(form, x, bias, *weights)
    return form.plain(x, form.matrix(weights, x.dtype), None if bias is None else bias.to(x.dtype))


def differentiable_gradients(
    form: Form, x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, g: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of x, bias and weights, with a graph of their own."""
    biases = () if bias is None else (bias,)

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        return plain_product(form, x, rest[len(biases) :], *(rest[: len(biases)] or (None,)))

    dx, *rest = torch.func.vjp(run, x, *biases, *weights)[1](g)
    return dx, *(rest if biases else (None, *rest))


def lowered(x: Tensor) -> Tensor:
    """In the precision of autocast, where it is on and lowers that of x."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
