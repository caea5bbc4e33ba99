"""Linear and convolution layers that keep and compute with their surviving weights alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_whole
from beyondprop.errors import UserError
from beyondprop.layers.sparse.layer import SparseLayer, drawn, filled, like, share_of, survivors
from beyondprop.layers.sparse.pattern import Convolution, Pair


class SparseLinear(SparseLayer):
    """Linear layer of surviving weights (SparseProp, Nikdan et al., arXiv 2302.04852, section 3).

        y_n = Σ_m W_nm x_m + b_n,   the sum over the surviving m of row n

    A step costs what the survivors cost, forward and backward: the gradient is computed for survivors alone.

    Args:
        in_features: Size of each sample.
        out_features: Size of each output.
        bias: Whether to add a bias.
        sparsity: Share of weights to leave out, at random. The others are drawn as those of `torch.nn.Linear`, with the
            average number of surviving inputs in the place of all.
        mask: Bools of shape (out_features, in_features) in the place of `sparsity`.
        dtype: float32, float64 or bfloat16 (summed in float32).

    Raises:
        UserError: Sizes, sparsity or mask do not make a layer.

    >>> layer = SparseLinear(64, 10, sparsity=0.9)
    >>> layer(torch.randn(5, 64)).shape, layer.weight.shape
    (torch.Size([5, 10]), torch.Size([64]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        sparsity: float = 0.9,
        mask: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole(1, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        conv = Convolution(in_features, out_features, linear=True)
        super().__init__(conv, *drawn(conv, sparsity, mask, bias, dtype))

    @classmethod
    def from_dense(cls, linear: nn.Linear, mask: Tensor | None = None) -> SparseLinear:
        """Keep a linear layer's weights that are not zero, or those of a mask of the weight's shape.

        >>> dense = torch.nn.Linear(4, 3)
        >>> sparse = SparseLinear.from_dense(dense, dense.weight.abs() > 0.2)
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        conv = Convolution(linear.in_features, linear.out_features, linear=True)
        SparseLayer.__init__(layer, conv, linear.weight, survivors(conv, mask, linear.weight), linear.bias)
        return like(layer, linear)

    def to_dense(self) -> nn.Linear:
        """Make a dense layer with zeros in the place of the weights that are gone."""
        dense = nn.Linear(
            *(self.in_features, self.out_features, self.bias is not None),
            dtype=self.weight.dtype,
            device=self.weight.device,
        )
        return filled(dense, self)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension of x, shape (..., in_features), giving (..., out_features)."""
        if x.shape[-1:] != (self.in_features,):
            raise UserError(f"the input has shape {tuple(x.shape)}: its last dimension must be {self.in_features}")
        if x.dim() == 2:
            return super().forward(x)
        return (
            super().forward(x.reshape(-1, self.in_features)).unflatten(0, x.shape[:-1])
            if x.dim() > 1
            else super().forward(x[None])[0]
        )

    def extra_repr(self) -> str:
        """Sizes and sparsity."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {share_of(self)}"


class SparseConv2d(SparseLayer):
    """Two-dimensional convolution of surviving weights (SparseProp, Nikdan et al., arXiv 2302.04852, section 3).

        O[b,o,p,q] = Σ W[o,c,i,j] x[b, c, p s_y + i d_y - p_y, q s_x + j d_x - p_x] + b_o,   over surviving (c, i, j)

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: As of `torch.nn.Conv2d`, and so are the next five.
        stride: Step of the kernel.
        padding: Pixels around the image; "same" and "valid" as of torch.
        dilation: Distance of taps.
        groups: Groups of channels.
        bias: Whether to add a bias.
        padding_mode: What stands around the image.
        sparsity: Share of weights to leave out, at random; see `SparseLinear`.
        mask: Bools of the shape of the dense weight in the place of `sparsity`.
        dtype: float32, float64 or bfloat16 (summed in float32).

    Raises:
        UserError: Arguments do not make a layer.

    >>> layer = SparseConv2d(3, 8, 3, padding=1, sparsity=0.5)
    >>> layer(torch.randn(2, 3, 9, 9)).shape, layer.weight.shape
    (torch.Size([2, 8, 9, 9]), torch.Size([108]))
    """

    def __init__(  # noqa: PLR0917 (torch's own order)
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        sparsity: float = 0.9,
        mask: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        try:
            with torch.device("meta"):
                dense = nn.Conv2d(
                    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
                )
        except ValueError as error:
            raise UserError(str(error)) from None
        conv = self._adopt(dense)
        super().__init__(conv, *drawn(conv, sparsity, mask, bias, dtype))

    def _adopt(self, dense: nn.Conv2d) -> Convolution:
        nn.Module.__init__(self)
        for name, least in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
            value = getattr(dense, name)
            if not isinstance(value, str) and min(value) < least:
                raise UserError(f"{name} must be at least {least}, not {value}")
        self.padding_mode = dense.padding_mode
        before, after = _padding(dense)
        # What the kernels cannot pad with zeros by themselves is padded before: (left, right, top, bottom).
        self.explicit = (
            () if before == after and dense.padding_mode == "zeros" else (before[1], after[1], before[0], after[0])
        )
        return Convolution(
            dense.in_channels,
            dense.out_channels,
            _pair(dense.kernel_size),
            _pair(dense.stride),
            (0, 0) if self.explicit else before,
            _pair(dense.dilation),
            dense.groups,
        )

    @classmethod
    def from_dense(cls, conv2d: nn.Conv2d, mask: Tensor | None = None) -> SparseConv2d:
        """Keep a convolution's weights that are not zero, or those of a mask of the weight's shape."""
        layer = cls.__new__(cls)
        conv = layer._adopt(conv2d)
        SparseLayer.__init__(layer, conv, conv2d.weight, survivors(conv, mask, conv2d.weight), conv2d.bias)
        return like(layer, conv2d)

    def to_dense(self) -> nn.Conv2d:
        """Make a dense layer with zeros in the place of the weights that are gone."""
        conv, padding = self.conv, self.conv.padding
        same = bool(self.explicit) and self.explicit[0::2] != self.explicit[1::2]
        dense = nn.Conv2d(
            conv.channels,
            conv.rows,
            conv.kernel,
            conv.stride,
            "same" if same else (self.explicit[2], self.explicit[0]) if self.explicit else padding,
            conv.dilation,
            conv.groups,
            self.bias is not None,
            self.padding_mode,
            dtype=self.weight.dtype,
            device=self.weight.device,
        )
        return filled(dense, self)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images of shape (batch, channels, height, width), or one without the batch dimension."""
        if x.dim() == 3:
            return self.forward(x[None])[0]
        if x.dim() != 4 or x.shape[1] != self.conv.channels:
            raise UserError(
                f"the input has shape {tuple(x.shape)}: it must be (batch, {self.conv.channels}, height, width)"
            )
        if self.explicit:
            x = F.pad(x, self.explicit, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        if min(self.conv.out_size(x.shape[2], x.shape[3])) < 1:
            raise UserError(
                f"images of {x.shape[2]}x{x.shape[3]} pixels are smaller than the kernel {self.conv.kernel}"
            )
        return super().forward(x)

    def extra_repr(self) -> str:
        """Sizes and sparsity."""
        conv = self.conv
        return (
            f"{conv.channels}, {conv.rows}, kernel_size={conv.kernel}, stride={conv.stride}, padding={conv.padding}, "
            f"dilation={conv.dilation}, groups={conv.groups}, {share_of(self)}"
        )


def _pair(value: tuple[int, ...]) -> Pair:
    return value[0], value[1]


def _padding(dense: nn.Conv2d) -> tuple[Pair, Pair]:
    """Pixels that a convolution adds before and after each dimension."""
    if dense.padding == "valid":
        return (0, 0), (0, 0)
    if dense.padding == "same":
        total = [d * (k - 1) for d, k in zip(dense.dilation, dense.kernel_size, strict=True)]
        return (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
    assert not isinstance(dense.padding, str)
    return _pair(dense.padding), _pair(dense.padding)
