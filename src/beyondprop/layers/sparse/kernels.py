"""Forward and backward of a sparse convolution by the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from beyondprop.layers.sparse import library
from beyondprop.layers.sparse.library import KINDS, Job, Options, Shape, Weights
from beyondprop.layers.sparse.pattern import Compiled

LANES = 16  # samples side by side where an output row has several pixels: a vector of 512 bits of float32


def _weights(weight: Tensor, bias: Tensor | None) -> Weights:
    return Weights(weight.data_ptr(), None if bias is None else bias.data_ptr(), KINDS[weight.dtype])


def _sum_type(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _options(compiled: Compiled, phases: int, pixels: int, shift: int) -> Options:
    return Options(torch.get_num_threads(), compiled.cut.vectors, LANES, phases, pixels, shift)


def _shape(compiled: Compiled, x: Tensor, out: Tensor) -> Shape:
    conv = compiled.conv
    in_size, out_size = ((1, 1), (1, 1)) if conv.linear else (x.shape[2:], out.shape[2:])
    return Shape(
        x.shape[0],
        conv.channels,
        *in_size,
        conv.rows,
        *out_size,
        *conv.kernel,
        *conv.stride,
        *conv.padding,
        *conv.dilation,
    )


def forward(compiled: Compiled, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write a layer's output.

    Args:
        compiled: The survivors.
        x: Input, shape (batch, channels) or (batch, channels, height, width), any strides; one of `KINDS`.
        weight: Values of the survivors, shape (nonzeros,), contiguous. float64 goes with float64 alone.
        bias: Shape (rows,) or None.
        out: What is written, of the output's shape and any strides.
    """
    if bias is not None:
        bias = bias.to(_sum_type(weight)).contiguous()
    options = _options(compiled, 1, 1 if out.dim() == 2 else out.shape[3], 0)
    library.call_forward(
        Job(_shape(compiled, x, out), [compiled.pattern.struct], options), x, out, _weights(weight, bias)
    )


def weight_gradient(
    compiled: Compiled, x: Tensor, d_out: Tensor, weight: Tensor, bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the gradients of the survivors, shape (nonzeros,), and, if asked for, of the bias, shape (rows,)."""
    kind = _sum_type(weight)
    d_weight = torch.empty(compiled.nonzeros, dtype=kind)
    d_bias = torch.empty(compiled.conv.rows, dtype=kind) if bias else None
    job = Job(_shape(compiled, x, d_out), [compiled.pattern.struct], _options(compiled, 1, 0, 0))
    library.call_weight(job, x, d_out, _weights(d_weight, d_bias))
    return d_weight, d_bias


def input_gradient(compiled: Compiled, d_out: Tensor, weight: Tensor, d_x: Tensor) -> None:
    """Write the gradient of the input: for each vertical phase of the stride a convolution with the transposed taps."""
    conv, (spread_y, spread_x) = compiled.conv, compiled.spread
    if conv.linear:
        shape = Shape(d_out.shape[0], conv.rows, 1, 1, conv.channels, *(1,) * 6, 0, 0, 1, 1)
        structs = [compiled.transposed[0].patterns[0].struct]
        library.call_forward(Job(shape, structs, _options(compiled, 1, 1, 0)), d_out, d_x, _weights(weight, None))
        return
    (stride_y, stride_x), (pad_y, pad_x) = conv.stride, conv.padding
    batch, width = d_x.shape[0], d_x.shape[3]
    # Pixel x of the input is number (x + pad) // stride of its phase; each phase's run begins where that of x = 0 does.
    first_x = pad_x // stride_x
    run = (width - 1 + pad_x) // stride_x - first_x + 1
    for phases in compiled.transposed:
        first_y = max(0, -(-(pad_y - phases.phase) // stride_y))
        top = stride_y * first_y + phases.phase - pad_y
        rows = d_x[:, :, top::stride_y]
        if rows.shape[2] == 0:
            continue
        source, before = _cropped(d_out, spread_y - first_y, spread_x - first_x)
        if 0 in source.shape:
            rows.zero_()
            continue
        shape = Shape(
            *(batch, conv.rows, *source.shape[2:], conv.channels, rows.shape[2], run),
            *(spread_y + 1, spread_x + 1, 1, 1, *before, 1, 1),
        )
        structs = [pattern.struct for pattern in phases.patterns]
        job = Job(shape, structs, _options(compiled, stride_x, width, pad_x))
        library.call_forward(job, source, rows, _weights(weight, None))


def _cropped(d_out: Tensor, before_y: int, before_x: int) -> tuple[Tensor, tuple[int, int]]:
    """Turn negative padding into a cut: the kernels pad, and do not crop."""
    source = d_out[:, :, max(0, -before_y) :, max(0, -before_x) :]
    return source, (max(0, before_y), max(0, before_x))
