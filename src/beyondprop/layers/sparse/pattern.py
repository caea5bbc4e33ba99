"""Which weights of a layer survive, and the order in which the kernels want them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from beyondprop.layers.sparse import library

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """What a sparse layer does apart from its weights. A linear layer is a convolution of one tap over one pixel."""

    channels: int
    rows: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    linear: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        shape = (self.rows, self.channels // self.groups, *self.kernel)
        return shape[:2] if self.linear else shape

    def out_size(self, height: int, width: int) -> Pair:
        """Height and width of the output for an input of this height and width."""
        sizes = []
        for size, k, s, p, d in zip(
            (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
        ):
            sizes.append((size + 2 * p - d * (k - 1) - 1) // s + 1)
        return sizes[0], sizes[1]


@dataclass
class Ordered:
    """Weights in the order of the kernels; `native/problem.h` says what the arrays mean."""

    source: Tensor
    column: Tensor
    run: Tensor
    run_begin: Tensor
    begin: Tensor
    granules: int
    granule: int
    block: int
    struct: library.Pattern = field(init=False)

    def __post_init__(self) -> None:
        arrays = (self.column, self.source, self.run, self.run_begin, self.begin)
        self.struct = library.Pattern(
            *(array.data_ptr() for array in arrays), len(self.source), self.granules, self.granule, self.block
        )


@dataclass(frozen=True)
class Cut:
    """How a layer's weights are cut into granules of channels and blocks of rows, and runs into chunks of vectors.

    A granule should be small enough for its part of the input to stay in the first-level cache, and large enough for
    each of its rows to have a dozen weights there: else starting a run costs more than it saves. The bounds were found
    by timing the layers of `benchmarks/sparse.py` with others.
    """

    granule: int
    block: int
    vectors: int

    @classmethod
    def of(cls, shape: tuple[int, int, int], density: float, single: bool) -> Cut:
        """Choose for a layer of (rows, channels, taps), of which a share `density` survives; `single`: one pixel."""
        rows, channels, taps = shape
        wanted = math.ceil(16 / max(density * taps, 1e-9))
        if single:
            return cls(min(max(wanted, 64), channels), 256 if rows >= 1024 else 64, 8 if density > 0.3 else 4)
        return cls(min(max(wanted, 8), channels), 64, 8)


class Entries(NamedTuple):
    """Weights one by one, each array of shape (nonzeros,), int64.

    Args:
        row: Output channel, ascending.
        column: `channel * taps + tap`; channels ascend within a row.
        source: Where the weight stands in the parameter.
    """

    row: Tensor
    column: Tensor
    source: Tensor


def order(entries: Entries, rows: int, channels: int, taps: int, cut: Cut) -> Ordered:
    """Bring weights into the order of the kernels.

    Args:
        entries: The weights.
        rows: Number of output channels.
        channels: Number of input channels of all groups.
        taps: Taps of the kernel.
        cut: How they are cut.
    """
    row, column, source = entries
    granules, blocks = math.ceil(channels / cut.granule), math.ceil(rows / cut.block)
    parts = blocks * granules
    cell = row * granules + column // taps // cut.granule  # a row's weights in a granule make a run
    counts = torch.bincount(cell, minlength=rows * granules)
    longest = int(counts.max()) + 1 if len(row) else 1

    def part(cells: Tensor) -> Tensor:
        return cells // granules // cut.block * granules + cells % granules

    def rank(cells: Tensor) -> Tensor:  # parts in turn, long runs first, then by row
        return (part(cells) * longest + longest - 1 - counts[cells]) * rows + cells // granules

    cells = counts.nonzero().flatten()
    starts = counts.cumsum(0)[cells] - counts[cells]  # entries come cell by cell
    by_rank = rank(cells).argsort()
    cells, starts = cells[by_rank], starts[by_rank]
    lengths = counts[cells]
    moved = starts - (lengths.cumsum(0) - lengths)
    place = torch.arange(len(row)) + moved.repeat_interleave(lengths)

    def begins(cells: Tensor) -> Tensor:
        held = torch.bincount(part(cells), minlength=parts)
        return torch.cat([torch.zeros(1, dtype=torch.int64), held.cumsum(0)])

    return Ordered(
        source[place].to(torch.int32),
        column[place].to(torch.int32),
        torch.stack([cells // granules, counts[cells]], 1).to(torch.int32).contiguous(),
        begins(cells),
        begins(cell),
        granules,
        cut.granule,
        cut.block,
    )


@dataclass
class Phases:
    """The transposed patterns whose outputs are the input pixels of one vertical phase of the stride."""

    phase: int
    patterns: list[Ordered]


class Compiled:
    """All that the kernels need to know of one set of surviving weights.

    The gradient of the input is a convolution of the output's gradient with the transposed taps. Input pixels whose
    padded position leaves the remainder r on division by the stride are reached by taps of remainder r alone, so each
    remainder has a pattern of its own.

    Args:
        conv: The layer.
        indices: Positions of the survivors in the flat dense weight, ascending, shape (nonzeros,).
    """

    def __init__(self, conv: Convolution, indices: Tensor) -> None:
        self.conv = conv
        (ky, kx), taps = conv.kernel, conv.kernel[0] * conv.kernel[1]
        self.indices = indices
        self.nonzeros = len(indices)
        self._density = self.nonzeros / max(1, math.prod(conv.weight_shape))
        self.cut = Cut.of((conv.rows, conv.channels, taps), self._density, conv.linear)
        self.pattern = order(self._entries(), conv.rows, conv.channels, taps, self.cut)
        self._transposed: list[Phases] | None = None
        #: Distance of the farthest tap, in pixels of the output, vertically and horizontally.
        self.spread = (
            (ky - 1) * conv.dilation[0] // conv.stride[0],
            (kx - 1) * conv.dilation[1] // conv.stride[1],
        )

    def _entries(self) -> Entries:
        conv, flat = self.conv, self.indices.to("cpu", torch.int64)
        inputs = math.prod(conv.weight_shape[1:])
        row = flat // inputs
        group = row // (conv.rows // conv.groups)
        return Entries(row, flat % inputs + group * inputs, torch.arange(self.nonzeros))

    @property
    def transposed(self) -> list[Phases]:
        """The patterns of the input's gradient, made when they are first asked for."""
        if self._transposed is None:
            self._transposed = self._transpose()
        return self._transposed

    def _transpose(self) -> list[Phases]:
        conv, (ky, kx) = self.conv, self.conv.kernel
        (sy, sx), (ty, tx) = conv.stride, self.spread
        row, column, source = self._entries()
        channel = column // (ky * kx)
        y = column // kx % ky * conv.dilation[0]
        x = column % kx * conv.dilation[1]
        taps = (ty + 1) * (tx + 1)
        cut = Cut.of((conv.channels, conv.rows, ky * kx), self._density, conv.linear)

        def pattern(phase_y: int, phase_x: int) -> Ordered:
            mine = ((y % sy == phase_y) & (x % sx == phase_x)).nonzero().flatten()
            mine = mine[channel[mine].to(torch.int32).argsort(stable=True)]
            tap = (ty - y[mine] // sy) * (tx + 1) + tx - x[mine] // sx
            return order(
                Entries(channel[mine], row[mine] * taps + tap, source[mine]), conv.channels, conv.rows, taps, cut
            )

        return [Phases(phase_y, [pattern(phase_y, phase_x) for phase_x in range(sx)]) for phase_y in range(sy)]

    @property
    def nbytes(self) -> int:
        """Memory of all orders that have been made."""
        made = [self.pattern, *(pattern for phases in self._transposed or [] for pattern in phases.patterns)]
        arrays = ((p.source, p.column, p.run, p.run_begin, p.begin) for p in made)
        return sum(array.nbytes for of_one in arrays for array in of_one)
