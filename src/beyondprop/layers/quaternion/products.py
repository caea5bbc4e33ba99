"""Products of a quaternion weight with quaternion inputs by eight real products, forward and backward.

The Hamilton product is almost a convolution over the group {1, i, j, k} without its signs, which the 4x4 Hadamard
matrix H makes diagonal: four products. With the first output's sign turned, a left weight W and an input x have only
one wrong sign in each of the four outputs, and four further products put them right (eight are the fewest: Howell and
Lafon, 1975). With s = (-1, 1, 1, 1) and the pairs (j, m) of the side:

    y = s ∘ H [(H x) · (H W / 4)],        y_k -= 2 s_k x_j W_m        for each output k

Every product is of whole blocks, a matrix product or a convolution of a quarter of the width, so that the 16 products
of the usual real matrix become 8. Both gradients have the same form, for transposing the three linear maps around the
products keeps their number. With G = dL/dy, four times the GHR derivative dL/dy*,

    dL/dx = W* ⊗ G:    dx = H [(H s∘G) · (H W / 4)],    dx_j -= 2 s_k G_k W_m
    dL/dW = G ⊗ x*:    dW = H [(H s∘G) · (H x)] / 4,    dW_m -= 2 s_k G_k x_j

so that a training step takes 24 block products and six transforms; H x, H W and H s∘G serve twice each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from beyondprop.errors import UserError
from beyondprop.layers.quaternion.algebra import Side
from beyondprop.layers.quaternion.real_product import Form, built, differentiable_gradients, lowered, plain_product

# For each output component k, of which input j and weight m the product has the wrong sign.
PAIRS: dict[Side, tuple[tuple[int, int], ...]] = {
    "left": ((0, 0), (2, 3), (3, 1), (1, 2)),
    "right": ((0, 0), (3, 2), (1, 3), (2, 1)),
}
TURN = (-1, 1, 1, 1)  # s
HADAMARD = ((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))


@lru_cache
def _matrix(turned: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """H, H diag(s) (turned before), diag(s) H (turned after), or H / 4 (quartered)."""
    with torch.inference_mode(mode=False):
        H, s = torch.tensor(HADAMARD, dtype=dtype), torch.tensor(TURN, dtype=dtype)
        return {"": H, "before": H * s, "after": s[:, None] * H, "quartered": H / 4}[turned].to(device)


def by_matrix(x: Tensor, turned: str = "", out: Tensor | None = None) -> Tensor:
    """Multiply the last dimension but one, of length 4, by H.

    Args:
        x: Blocks.
        turned: "before" multiplies the first block by -1 beforehand, "after" the first of the result.
        out: Where the result is written.
    """
    return torch.matmul(_matrix(turned, x.dtype, x.device), x, out=out)


def by_sums(x: Tensor, dim: int, turned: str = "", *, to: int, out: Tensor | None = None) -> Tensor:
    """As `by_matrix`, of another dimension: faster where the dtype is short, or the blocks are.

    Args:
        x: Blocks.
        dim: The dimension, of length 4.
        turned: As of `by_matrix`.
        to: Where it stands in the result.
        out: Where the result is written.
    """
    a, b, c, d = x.unbind(dim)
    even, odd = (b - a, -a - b) if turned == "before" else (a + b, a - b)
    high, low = c + d, c - d
    first = -even - high if turned == "after" else even + high
    return torch.stack((first, odd + low, even - high, odd - low), to, out=out)


def of_weight(weight: Tensor) -> Tensor:
    """H / 4 times a weight of shape (4, ...), or its gradient."""
    return by_matrix(weight.reshape(4, -1), "quartered").view(weight.shape)


def _blocks(rows: Tensor) -> Tensor:
    """A view of rows, shape (batch, 4, n)."""
    return rows.view(len(rows), 4, rows.shape[1] // 4)


class LinearForm:
    """Products of a linear layer: x of shape (batch, 4 n), weight of shape (4, m, n).

    Args:
        side: Where the weight stands; nothing hangs on it where there are two.
    """

    def __init__(self, side: Side = "left") -> None:
        self.side = side

    def matrix(self, weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """See `Form`."""
        return built(weights, self.side, dtype)

    def plain(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `Form`."""
        return torch.nn.functional.linear(x, matrix, bias)

    def plain_gradients(
        self, g: Tensor, x: Tensor, matrix: Tensor, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Form`."""
        return g @ matrix if wanted[0] else None, g.T @ x if wanted[1] else None

    def add_bias(self, y: Tensor, bias: Tensor) -> None:
        """See `Form`."""
        y.add_(bias.to(y.dtype))

    def bias_gradient(self, g: Tensor, bias: Tensor) -> Tensor:
        """See `Form`."""
        return g.sum(0, dtype=bias.dtype)

    def spread(self, x: Tensor, turned: str = "") -> Tensor:
        """See `Form`: shape (4, batch, n)."""
        blocks = _blocks(x)
        if x.element_size() >= 4:
            return by_matrix(blocks, turned).transpose(0, 1)
        return by_sums(blocks, 1, turned, to=0)

    def gather(self, products: Tensor, turned: str = "") -> Tensor:
        """See `Form`."""
        _, batch, width = products.shape
        rows = products.new_empty(batch, 4 * width)
        if products.element_size() >= 4:
            by_matrix(products.transpose(0, 1), turned, out=rows.view(batch, 4, width))
        else:
            by_sums(products, 0, turned, to=1, out=rows.view(batch, 4, width))
        return rows

    def multiply(self, u: Tensor, v: Tensor) -> Tensor:
        """See `Form`."""
        return torch.bmm(u, v.mT)

    def input_gradient(self, q: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """See `Form`."""
        del x
        return torch.bmm(q, v)

    def weight_gradient(self, q: Tensor, u: Tensor, weight: Tensor) -> Tensor:
        """See `Form`."""
        del weight
        return torch.bmm(q.mT, u)

    def mend_output(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See `Form`."""
        out, into = _blocks(y), _blocks(x)
        for k, (j, m) in enumerate(PAIRS[self.side]):
            out[:, k].addmm_(into[:, j], weight[m].T, alpha=-2.0 * TURN[k])
        return y

    def mend_input(self, dx: Tensor, g: Tensor, weight: Tensor) -> Tensor:
        """See `Form`."""
        out, into = _blocks(dx), _blocks(g)
        for k, (j, m) in enumerate(PAIRS[self.side]):
            out[:, j].addmm_(into[:, k], weight[m], alpha=-2.0 * TURN[k])
        return dx

    def mend_weight(self, dW: Tensor, g: Tensor, x: Tensor) -> Tensor:
        """See `Form`."""
        outer, inner = _blocks(g), _blocks(x)
        for k, (j, m) in enumerate(PAIRS[self.side]):
            if dW.dtype == x.dtype:
                dW[m].addmm_(outer[:, k].T, inner[:, j], alpha=-2.0 * TURN[k])
            else:
                dW[m].add_(outer[:, k].T @ inner[:, j], alpha=-2.0 * TURN[k])
        return dW


class EightProducts(Function):
    """y = W ⊗ x or x ⊗ W by eight block products, with the gradients of the module's first lines.

    `apply(x, weight, bias, form, keep)` gives y, and the transformed input and weight, which the backward pass needs
    again: with `keep=False` it computes them anew. Under `torch.func`'s transforms, and where gradients are to be
    differentiated again, the real matrix of 16 blocks stands in.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, keep: bool) -> tuple[Tensor, ...]:
        """Multiply in the precision of x; the weight may be of a higher one."""
        del keep
        u, v = form.spread(x), of_weight(weight).to(x.dtype)
        y = form.gather(form.multiply(u, v), "after")
        form.mend_output(y, x, weight.to(x.dtype))
        if bias is not None:
            form.add_bias(y, bias)
        return y, u, v

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep what the gradients need."""
        x, weight, bias, ctx.form, keep = inputs
        _, u, v = output
        ctx.mark_non_differentiable(u, v)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, *((u, v) if keep else ()))
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """Return W* ⊗ G and G ⊗ x* (left), or G ⊗ W* and x* ⊗ G (right), and the bias's."""
        if g is None:
            return None, None, None, None, None
        form, (x, weight, bias, *kept) = ctx.form, ctx.saved_tensors
        if torch.is_grad_enabled():
            dx, db, dW = differentiable_gradients(form, x, (weight,), bias, g)
            return dx, dW, db, None, None
        q, dx, dW = form.spread(g, "before"), None, None
        u, v = kept or (None, None)
        if ctx.needs_input_grad[0]:
            v = of_weight(weight).to(x.dtype) if v is None else v
            dx = form.gather(form.input_gradient(q, v, x))
            form.mend_input(dx, g, weight.to(x.dtype))
        if ctx.needs_input_grad[1]:
            u = form.spread(x) if u is None else u
            dW = of_weight(form.weight_gradient(q, u, weight).to(weight.dtype))
            form.mend_weight(dW, g, x)
        return dx, dW, form.bias_gradient(g, bias) if ctx.needs_input_grad[2] else None, None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dW: Tensor | None, db: Tensor | None, *_: Any) -> tuple[Tensor, None, None]:
        """Push tangents forward: dW ⊗ x + W ⊗ dx + db."""
        x, weight = ctx.saved_tensors
        found = plain_product(ctx.form, torch.zeros_like(x) if dx is None else dx, (weight,), db)
        if dW is not None:
            found = found + plain_product(ctx.form, x, (dW,), None)
        return found, None, None

    @staticmethod
    def vmap(_info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Any, form: Form, _keep: bool) -> Any:
        """Multiply many at once."""
        y = torch.vmap(lambda x, w, b: plain_product(form, x, (w,), b), in_dims[:3])(x, weight, bias)
        return (y, y.new_empty(0), y.new_empty(0)), (0, None, None)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, *, keep: bool = True) -> Tensor:
    """Multiply quaternion inputs by quaternion weights with eight block products.

    Args:
        x: Inputs, as the form takes them.
        weight: Shape (4, ...).
        bias: Of the outputs.
        form: `LinearForm` or `ConvolutionForm`.
        keep: Whether the transformed input and weight are held for the backward pass.

    Raises:
        UserError: Inputs and weights differ in dtype, outside autocast.
    """
    x = lowered(x)
    if x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return EightProducts.apply(x, weight, bias, form, keep)[0]
    raise UserError(f"x is {x.dtype} and the quaternion weights are {weight.dtype}: convert one of them")


def wide_enough(width: int, x: Tensor, long: int, short: int | None) -> bool:
    """Whether eight products are taken to be faster than the real matrix, whose 16 make one call.

    Args:
        width: The narrower side of the layer, in real numbers.
        x: Its input.
        long: From which width on in float32 and float64.
        short: From which width on in shorter dtypes, of which processors multiply many at once; None for never.
    """
    least = long if lowered(x).element_size() >= 4 else short
    return least is not None and width >= least
