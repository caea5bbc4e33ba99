"""Convolutions of quaternions, and their transposes, over one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_whole
from beyondprop.errors import UserError
from beyondprop.layers.quaternion.algebra import Side, check_quarters
from beyondprop.layers.quaternion.initialisation import Criterion, quaternion_
from beyondprop.layers.quaternion.linear import Sides, check_products, check_sides, check_width, unit_
from beyondprop.layers.quaternion.products import PAIRS, TURN, by_matrix, by_sums, product, wide_enough
from beyondprop.layers.quaternion.real_product import built, plain_product

Size = int | Sequence[int]
Padding = Literal["zeros", "reflect", "replicate", "circular"]


class ConvolutionForm:
    """Products of a convolution: x of shape (batch, 4 n, *places), weight of shape (4, m, n / groups, *kernel).

    Of a transposed one the weight has shape (4, n, m / groups, *kernel). The four blocks, each with the layer's groups,
    are the groups of one real convolution, so that all products of a kind are one call.

    Args:
        side: Where the weight stands.
        stride, padding, dilation, transposed, output_padding, groups: As `torch.convolution` takes them.
    """

    def __init__(
        self,
        side: Side,
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
    ) -> None:
        self.side, self.groups, self.transposed = side, groups, transposed
        self.geometry = (list(stride), list(padding), list(dilation), transposed, list(output_padding))

    def matrix(self, weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """See `Form`: those of all groups, one after another, as a real convolution with groups takes them."""
        found = []
        for own in zip(*(weight.chunk(self.groups, 1) for weight in weights), strict=True):
            if self.transposed:
                found.append(built([part.transpose(1, 2) for part in own], self.side, dtype).transpose(0, 1))
            else:
                found.append(built(own, self.side, dtype))
        return torch.cat(found, 0) if self.groups > 1 else found[0]

    def plain(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `Form`; of a group's four blocks, those of x do not lie together."""
        if self.groups == 1:
            return torch.convolution(x, matrix, bias, *self.geometry, 1)
        y = torch.convolution(regroup(x, 4, self.groups), matrix, None, *self.geometry, self.groups)
        y = regroup(y, self.groups, 4)
        return y if bias is None else y + _upright(bias, y)

    def plain_gradients(
        self, g: Tensor, x: Tensor, matrix: Tensor, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Form`."""
        g, x = (regroup(part, 4, self.groups) for part in (g, x))
        dx, dM, _ = torch.ops.aten.convolution_backward(
            g, x, matrix, None, *self.geometry, self.groups, (*wanted, False)
        )
        return None if dx is None else regroup(dx, self.groups, 4), dM

    def spread(self, x: Tensor, turned: str = "") -> Tensor:
        """See `Form`: of the shape of x."""
        return self._transformed(x, turned)

    def gather(self, products: Tensor, turned: str = "") -> Tensor:
        """See `Form`."""
        return self._transformed(products, turned)

    def multiply(self, u: Tensor, v: Tensor) -> Tensor:
        """See `Form`."""
        return torch.convolution(u, v.flatten(0, 1), None, *self.geometry, 4 * self.groups)

    def input_gradient(self, q: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """See `Form`."""
        return self._gradients(q, x, v.flatten(0, 1), (True, False, False))[0]

    def weight_gradient(self, q: Tensor, u: Tensor, weight: Tensor) -> Tensor:
        """See `Form`."""
        v = weight.to(u.dtype).flatten(0, 1)
        return self._gradients(q, u, v, (False, True, False))[1].view(weight.shape)

    def mend_output(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See `Form`."""
        return y.add_(self.multiply(self._paired(x), self._mending(weight)))

    def mend_input(self, dx: Tensor, g: Tensor, weight: Tensor) -> Tensor:
        """See `Form`."""
        parts, blocks = self.input_gradient(g, self._mending(weight), dx).chunk(4, 1), dx.chunk(4, 1)
        for (j, _), part in zip(PAIRS[self.side], parts, strict=True):
            blocks[j].add_(part)
        return dx

    def mend_weight(self, dW: Tensor, g: Tensor, x: Tensor) -> Tensor:
        """See `Form`."""
        for k, part in enumerate(self.weight_gradient(g, self._paired(x), dW).unbind(0)):
            dW[PAIRS[self.side][k][1]].add_(part, alpha=-2.0 * TURN[k])
        return dW

    def add_bias(self, y: Tensor, bias: Tensor) -> None:
        """See `Form`."""
        y.add_(_upright(bias.to(y.dtype), y))

    def bias_gradient(self, g: Tensor, bias: Tensor) -> Tensor:
        """See `Form`."""
        return g.sum([0, *range(2, g.ndim)], dtype=bias.dtype)

    def _paired(self, x: Tensor) -> Tensor:
        """For each output the block of x that the mending multiplies."""
        blocks = x.chunk(4, 1)
        return torch.cat([blocks[j] for j, _ in PAIRS[self.side]], 1)

    def _mending(self, weight: Tensor) -> Tensor:
        """For each output the weight that mends it, with its factor."""
        return torch.stack([weight[m] * (-2.0 * TURN[k]) for k, (_, m) in enumerate(PAIRS[self.side])])

    def _gradients(self, g: Tensor, x: Tensor, v: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            g, x, v, None, *self.geometry, 4 * self.groups, wanted
        )
        return found

    @staticmethod
    def _transformed(x: Tensor, turned: str) -> Tensor:
        out, quarter = torch.empty_like(x), x.shape[1] // 4
        long = x.element_size() >= 4 and x.numel() > 0
        last, out_last = x.movedim(1, -1), out.movedim(1, -1)
        if long and x.is_contiguous() and out.is_contiguous():
            shape = (len(x), 4, x[0].numel() // 4)
            by_matrix(x.view(shape), turned, out=out.view(shape))
        elif long and last.is_contiguous() and out_last.is_contiguous():
            by_matrix(last.view(-1, 4, quarter), turned, out=out_last.view(-1, 4, quarter))
        else:
            shape = (len(x), 4, quarter, *x.shape[2:])
            by_sums(x.reshape(shape), 1, turned, to=1, out=out.view(shape))
        return out


def regroup(x: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder channels (outer, inner, rest) to (inner, outer, rest)."""
    parts = x.reshape(len(x), outer, inner, x.shape[1] // (outer * inner), *x.shape[2:])
    return parts.transpose(1, 2).reshape(x.shape)


def _upright(bias: Tensor, like: Tensor) -> Tensor:
    return bias.view(1, -1, *[1] * (like.ndim - 2))


class _QuaternionConvolution(nn.Module):
    """What the six have in common."""

    dims: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        *,
        output_padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Padding = "zeros",
        side: Sides = "left",
        memory_saving: bool = False,
        products: Literal[8, 16] | None = None,
    ) -> None:
        check_quarters(in_channels=in_channels, out_channels=out_channels)
        check_whole(1, groups=groups)
        if (in_channels // 4) % groups or (out_channels // 4) % groups:
            raise UserError(
                f"{groups} groups do not divide {in_channels // 4} quaternions in and {out_channels // 4} out"
            )
        check_sides(side)
        check_products(products)
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise UserError(f"padding_mode must be zeros, reflect, replicate or circular, not {padding_mode!r}")
        super().__init__()
        self.in_channels, self.out_channels, self.groups, self.side = in_channels, out_channels, groups, side
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.stride, self.dilation = self._sizes("stride", stride, 1), self._sizes("dilation", dilation, 1)
        self.output_padding = self._sizes("output_padding", output_padding, 0)
        self.padding = self._padding(padding)
        self.padding_mode, self.memory_saving, self.products = padding_mode, memory_saving, products
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (4, first // 4, second // 4 // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape))
        self.right_weight = nn.Parameter(torch.empty(shape)) if side == "both" else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def _sizes(self, name: str, given: Size, least: int) -> tuple[int, ...]:
        sizes = (given,) * self.dims if isinstance(given, int) else tuple(given)
        if len(sizes) != self.dims:
            raise UserError(f"{name} must be one number or {self.dims}, got {given!r}")
        for size in sizes:
            check_whole(least, **{name: size})
        return sizes

    def _padding(self, padding: Size | str) -> tuple[int, ...]:
        if not isinstance(padding, str):
            return self._sizes("padding", padding, 0)
        total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if padding == "valid" and not self.transposed:
            return (0,) * self.dims
        if padding != "same" or self.transposed or set(self.stride) != {1} or any(size % 2 for size in total):
            raise UserError(
                f"padding must be numbers, 'valid', or 'same' (stride 1, an even dilation * (kernel_size - 1)), not "
                f"{padding!r}"
            )
        return tuple(size // 2 for size in total)

    def reset_parameters(self, criterion: Criterion = "he") -> None:
        """Draw the weights as `quaternion_`, and set biases to 0; right weights of two are unit quaternions."""
        field = self.weight[0, 0, 0].numel() / self.groups
        inputs, outputs = int(self.in_channels // 4 * field), int(self.out_channels // 4 * field)
        quaternion_(self.weight, max(inputs, 1), max(outputs, 1), criterion)
        if self.right_weight is not None:
            unit_(self.right_weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (batch, out_channels, *places) for x of shape (batch, in_channels, *places)."""
        name = type(self).__name__
        if x.ndim != self.dims + 2:
            raise UserError(f"{name} takes {self.dims + 2} dimensions (batch, channels, places), got {tuple(x.shape)}")
        check_width(x, 1, self.in_channels, name)
        padding = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, [size for size in reversed(padding) for _ in range(2)], mode=self.padding_mode)
            padding = (0,) * self.dims
        keep, side = not self.memory_saving, "left" if self.right_weight is not None else cast(Side, self.side)
        form = ConvolutionForm(
            side,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            transposed=self.transposed,
            output_padding=self.output_padding,
            groups=self.groups,
        )
        if self.right_weight is not None:
            return plain_product(form, x, (self.weight, self.right_weight), self.bias, keep=keep)
        width = min(self.in_channels, self.out_channels)
        if self.products == 8 or (self.products is None and wide_enough(width, x, 128, None)):
            return product(x, self.weight, self.bias, form, keep=keep)
        return plain_product(form, x, (self.weight,), self.bias, keep=keep)

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"side={self.side}"
        )


class QuaternionConv1d(_QuaternionConvolution):
    """A convolution of quaternions over one dimension; see `QuaternionConv2d`."""

    dims = 1


class QuaternionConv2d(_QuaternionConvolution):
    """A convolution of quaternions over two dimensions, with the backward pass of the GHR calculus.

        left:  y_i = Σ_k W_ik ⋆ x_k + b_i        dx_k = Σ_i W_ik* ⋆ᵀ G_i,    dW_ik = G_i ⋆ x_k*

    where ⋆ correlates as `nn.Conv2d` does and multiplies by ⊗; right and both sides as of `QuaternionLinear`. Channels
    are counted in real numbers, so that the layer takes the place of `nn.Conv2d`, with a quarter of its weights. The
    eight products are convolutions of a quarter of the channels; torch has the fast ones for `channels_last`.

    Args:
        in_channels: A multiple of four: first all real parts, then all of i, of j, of k.
        out_channels: As `in_channels`.
        kernel_size, stride, dilation: One number, or one for each dimension.
        padding: As these, or "same" or "valid".
        output_padding: Of a transposed convolution alone, where its stride leaves the size open.
        groups: They divide the quaternions of inputs and of outputs; each component has all of them.
        bias: Whether there is one.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        side: Where the weight stands.
        memory_saving: As of `QuaternionLinear`; where `padding_mode` is not "zeros" the input that is held is padded.
        products: 8, or 16 by the real weight of all blocks, which is faster for few channels and in bfloat16. By
            default 8 from 128 channels on in float32.

    Raises:
        UserError: Channels are no multiple of four, groups do not divide them, an option is unknown; in a call, the
            input has another shape.

    >>> QuaternionConv2d(8, 16, 3, stride=2, padding=1)(torch.zeros(2, 8, 6, 6)).shape
    torch.Size([2, 16, 3, 3])
    """

    dims = 2


class QuaternionConv3d(_QuaternionConvolution):
    """A convolution of quaternions over three dimensions; see `QuaternionConv2d`."""

    dims = 3


class QuaternionConvTranspose1d(_QuaternionConvolution):
    """A transposed convolution of quaternions over one dimension; see `QuaternionConvTranspose2d`."""

    dims, transposed = 1, True


class QuaternionConvTranspose2d(_QuaternionConvolution):
    """A transposed convolution of quaternions, in the place of `nn.ConvTranspose2d`.

    Arguments are those of `QuaternionConv2d`; the weight has shape (4, inputs, outputs / groups, kernel...).

    >>> QuaternionConvTranspose2d(8, 4, 2, stride=2)(torch.zeros(2, 8, 3, 3)).shape
    torch.Size([2, 4, 6, 6])
    """

    dims, transposed = 2, True


class QuaternionConvTranspose3d(_QuaternionConvolution):
    """A transposed convolution of quaternions over three dimensions; see `QuaternionConvTranspose2d`."""

    dims, transposed = 3, True


CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: QuaternionConv1d,
    nn.Conv2d: QuaternionConv2d,
    nn.Conv3d: QuaternionConv3d,
    nn.ConvTranspose1d: QuaternionConvTranspose1d,
    nn.ConvTranspose2d: QuaternionConvTranspose2d,
    nn.ConvTranspose3d: QuaternionConvTranspose3d,
}
