"""The compiled kernels, and the structures they are called with (`native/problem.h`, field by field)."""

from __future__ import annotations

import ctypes
import functools
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from beyondprop.errors import UserError

KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
SHORT_OF_MEMORY = 1
VERSION = 1  # of the structures below
LEVELS = ("baseline", "avx2", "avx512")
_Integer = ctypes.c_int64
_Pointer = ctypes.c_void_p
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class View(ctypes.Structure):
    """A tensor (batch, channels, height, width) with any strides, or a matrix (batch, features)."""

    _fields_ = [*_fields(_Pointer, "data"), *_fields(_Integer, "batch channel y x kind")]

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        """View a tensor of two or four dimensions."""
        strides = (*tensor.stride(), 0, 0) if tensor.dim() == 2 else tensor.stride()
        return cls(tensor.data_ptr(), *strides, KINDS[tensor.dtype])


class Shape(ctypes.Structure):
    """A convolution; the extents and the order of arguments are those of `problem.h`."""

    _fields_ = _fields(
        _Integer,
        "batch channels height width rows out_height out_width "
        "kernel_y kernel_x stride_y stride_x pad_y pad_x dilation_y dilation_x",
    )


class Pattern(ctypes.Structure):
    """The surviving weights in the order of the kernels."""

    _fields_ = [
        *_fields(_Pointer, "column source run run_begin begin"),
        *_fields(_Integer, "nonzeros granules granule block"),
    ]


class Weights(ctypes.Structure):
    """Values of the surviving weights and of the bias, or their gradients."""

    _fields_ = [*_fields(_Pointer, "weight bias"), *_fields(_Integer, "kind")]


class Options(ctypes.Structure):
    """How the work is cut."""

    _fields_ = _fields(_Integer, "threads vectors lanes phases pixels shift")


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the kernels, or give None where they were not built. torch comes first: they share its OpenMP threads."""
    path = Path(__file__).with_name(f"sparse_kernels{_SUFFIX}")
    if not path.exists():
        return None
    try:
        kernels = ctypes.CDLL(str(path))
        version = kernels.beyondprop_sparse_version()
    except (OSError, AttributeError) as error:
        version = error
    if version == VERSION:
        return kernels
    warnings.warn(f"sparse layers use plain torch: {path.name} is of another version ({version})", stacklevel=2)
    return None


def instruction_set() -> str | None:
    """Name the instruction set that the kernels use here, None where plain torch takes their place."""
    kernels = library()
    return LEVELS[kernels.beyondprop_sparse_level()] if kernels else None


def limit_instruction_set(level: str) -> str | None:
    """Let the kernels use no more than one of `LEVELS`, and name the one in use: for tests and timing."""
    kernels = library()
    return LEVELS[kernels.beyondprop_sparse_limit(LEVELS.index(level))] if kernels else None


def scratch_bytes() -> int:
    """Bytes that the kernels keep for the tiles of all threads. No tensor holds them: `measure.memory` sees none."""
    kernels = library()
    if kernels is None:
        return 0
    kernels.beyondprop_sparse_scratch.restype = ctypes.c_int64
    return int(kernels.beyondprop_sparse_scratch())


@dataclass(frozen=True)
class Job:
    """What a call computes apart from its tensors: one pattern, or all horizontal phases of a transpose."""

    shape: Shape
    patterns: Sequence[Pattern]
    options: Options


def call_forward(job: Job, x: Tensor, out: Tensor, weights: Weights) -> None:
    """Write the products into `out`."""
    _call("forward", job, x, out, weights)


def call_weight(job: Job, x: Tensor, d_out: Tensor, gradient: Weights) -> None:
    """Write the gradients of the surviving weights and of the bias."""
    _call("weight", job, x, d_out, gradient)


def _call(name: str, job: Job, *arguments: Tensor | Weights) -> None:
    views = [View.of(a) if isinstance(a, Tensor) else a for a in arguments]
    run = getattr(library(), f"beyondprop_sparse_{name}")
    patterns = (Pattern * len(job.patterns))(*job.patterns)
    status = run(ctypes.byref(job.shape), patterns, *map(ctypes.byref, views), ctypes.byref(job.options))
    if status == SHORT_OF_MEMORY:
        raise MemoryError("the sparse kernels found no memory for their tiles: make batches smaller")
    if status:
        raise UserError("the layer's input is too large for the sparse kernels: set its kernels_from above 1")
