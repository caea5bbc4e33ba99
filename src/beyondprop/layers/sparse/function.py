"""A sparse convolution that autograd knows: by the compiled kernels where they can be used, else by plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.sparse import kernels, library
from beyondprop.layers.sparse.pattern import Compiled, Convolution
from beyondprop.transforms import is_transformed


def has_kernels(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the compiled kernels can be used for these tensors: on a CPU, outside of torch.func and torch.compile.

    Args:
        x: The input.
        weight: The survivors.
        dtype: Of the output.
    """
    kinds = {x.dtype, weight.dtype, dtype}
    return (
        library.library() is not None
        and x.device.type == weight.device.type == "cpu"
        and kinds <= library.KINDS.keys()
        and (torch.float64 not in kinds or kinds == {torch.float64})
        and not is_transformed()
        and not torch.compiler.is_compiling()
        and {type(x), type(weight)} <= {Tensor, nn.Parameter}
    )


def spreads_far(conv: Convolution, x: Tensor) -> bool:
    """Whether taps lie farther apart than the image is large: packing would then copy little but padding."""
    if conv.linear:
        return False
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel, strict=True)]
    return reach[0] >= x.shape[2] or reach[1] >= x.shape[3]


def dense_product(conv: Convolution, x: Tensor, dense: Tensor, bias: Tensor | None) -> Tensor:
    """Do what a sparse layer does with a dense weight, by torch's own operations."""
    if conv.linear:
        return F.linear(x, dense, bias)
    return F.conv2d(x, dense, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def to_dense(conv: Convolution, indices: Tensor, weight: Tensor) -> Tensor:
    """Spread the survivors over a dense weight; differentiable."""
    size = math.prod(conv.weight_shape)
    if len(indices) == size:  # all survive
        return weight.view(conv.weight_shape)
    return weight.new_zeros(size).scatter(0, indices.long(), weight).view(conv.weight_shape)


def output_like(conv: Convolution, x: Tensor, dtype: torch.dtype, batch_last: bool) -> Tensor:
    """Make room for the output of a layer, in the memory layout of the input or with samples innermost."""
    if conv.linear:
        if batch_last:
            return torch.empty(conv.rows, x.shape[0], dtype=dtype).t()
        return torch.empty(x.shape[0], conv.rows, dtype=dtype)
    shape = (x.shape[0], conv.rows, *conv.out_size(x.shape[2], x.shape[3]))
    if batch_last:
        return torch.empty(*shape[1:], shape[0], dtype=dtype).permute(3, 0, 1, 2)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


@dataclass(frozen=True)
class Call:
    """How one evaluation of a layer is done.

    Args:
        compiled: The survivors.
        dtype: Type of the output.
        batch_last: Whether samples stand innermost in the output's memory.
        watcher: Called with the input and the output's gradient on the way back.
    """

    compiled: Compiled
    dtype: torch.dtype
    batch_last: bool
    watcher: Callable[[Tensor, Tensor], None] | None


def check_length(weight: Tensor, compiled: Compiled) -> None:
    """Refuse values that are not one for each survivor, such as those of a mask that has changed since.

    Raises:
        UserError: There are more or fewer.
    """
    if weight.shape != (compiled.nonzeros,):
        raise UserError(
            f"{compiled.nonzeros} weights survive, and the values have shape {tuple(weight.shape)}: a mask changed "
            "between forward and backward, or the weight was replaced; use change_mask between steps"
        )


class SparseConvolution(torch.autograd.Function):
    """Output of a sparse layer from its input, surviving weights and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """Compute the output; see `kernels.forward`."""
        check_length(weight, call.compiled)
        ctx.call, ctx.has_bias = call, bias is not None
        ctx.save_for_backward(x, weight)
        out = output_like(call.compiled.conv, x, call.dtype, call.batch_last)
        if out.numel():
            kernels.forward(call.compiled, x, weight, bias, out)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are needed; see `kernels.input_gradient` and `kernels.weight_gradient`."""
        x, weight = ctx.saved_tensors
        call: Call = ctx.call
        compiled = call.compiled
        check_length(weight, compiled)
        if call.watcher is not None and ctx.needs_input_grad[1]:
            call.watcher(x.detach(), d_out.detach())
        if torch.is_grad_enabled():
            return *differentiable_gradients(ctx, x, weight, d_out), None
        d_out = d_out.resolve_neg()
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = torch.empty_like(x) if d_out.numel() else torch.zeros_like(x)
            if d_out.numel():
                kernels.input_gradient(compiled, d_out, weight, d_x)
        wants_bias = ctx.has_bias and ctx.needs_input_grad[2]
        if ctx.needs_input_grad[1] or wants_bias:
            if d_out.numel():
                d_weight, d_bias = kernels.weight_gradient(compiled, x, d_out, weight, wants_bias)
            else:
                d_weight = torch.zeros(compiled.nonzeros)
                d_bias = torch.zeros(compiled.conv.rows) if wants_bias else None
            d_weight = d_weight.to(weight.dtype)
            d_bias = None if d_bias is None else d_bias.to(weight.dtype)
        return d_x, d_weight, d_bias, None


def differentiable_gradients(ctx: Any, x: Tensor, weight: Tensor, d_out: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the gradients by plain torch, with a graph of their own: for those who differentiate them again."""
    compiled: Compiled = ctx.call.compiled
    wanted = [need and tensor for need, tensor in zip(ctx.needs_input_grad, (x, weight), strict=False)]
    inputs = [tensor for tensor in wanted if isinstance(tensor, Tensor)]
    found: Iterator[Tensor] = iter(())
    if inputs:
        dense, kind = to_dense(compiled.conv, compiled.indices, weight), ctx.call.dtype
        with torch.autocast(x.device.type, enabled=False):
            out = dense_product(compiled.conv, x.to(kind), dense.to(kind), None)
        found = iter(torch.autograd.grad(out, inputs, d_out.to(kind), create_graph=True))
    d_x, d_weight = (next(found) if isinstance(tensor, Tensor) else None for tensor in wanted)
    outputs = [dim for dim in range(d_out.dim()) if dim != 1]
    d_bias = d_out.sum(outputs).to(weight.dtype) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return d_x, d_weight, d_bias
