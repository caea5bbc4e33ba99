"""Convolution without shared weights: every place has filters of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_whole
from beyondprop.errors import UserError


class LocallyConnected2d(nn.Module):
    """Local receptive fields with weights of their own, as in Forward-Forward (Hinton, arXiv 2212.13345, Section 4).

        out[n, o, p] = bias[o, p] + Σ_{c, q in the field of p} weight[o, p, c, q - p] in[n, c, q]

    Fields are odd squares around each place, cut off at the image's border, so that the image keeps its size. The
    weights stand in the fields alone; to multiply, they are put into one matrix from all of the image to all of the
    output, of which the rest is zero: for images of up to a few thousand numbers that is much faster than gathering the
    fields.

    Args:
        image: Channels, height and width of the input.
        out_channels: Of the output.
        field: Side of a receptive field, odd.

    Raises:
        UserError: `field` is even or below 1; in `forward`, an image has another shape.

    >>> LocallyConnected2d((3, 8, 8), 4, 5)(torch.randn(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    columns: Tensor
    rows: Tensor

    def __init__(self, image: tuple[int, int, int], out_channels: int, field: int) -> None:
        super().__init__()
        check_whole(1, out_channels=out_channels, field=field)
        if field % 2 == 0:
            raise UserError(f"field must be odd, for it lies around a place: got {field}")
        channels, height, width = image
        self.image, self.out_channels, self.field = image, out_channels, field
        places = torch.arange(height * width).view(height, width)
        down, right = places // width, places % width
        near = ((down.flatten()[:, None] - down.flatten()).abs() <= field // 2) & (
            (right.flatten()[:, None] - right.flatten()).abs() <= field // 2
        )
        target, source = near.nonzero().unbind(1)  # pairs of places, sorted by the output's
        count = height * width
        into = (torch.arange(channels)[:, None] * count + source).flatten()
        self.register_buffer("columns", into, persistent=False)
        self.register_buffer("rows", target.repeat(channels), persistent=False)
        self.weight = nn.Parameter(torch.empty(out_channels, channels * len(target)))
        self.bias = nn.Parameter(torch.empty(out_channels, height, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases as torch's convolutions do."""
        bound = 1 / math.sqrt(self.image[0] * self.field**2)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (batch, out_channels, height, width) for x of shape (batch, channels, height, width)."""
        if x.shape[1:] != self.image:
            raise UserError(f"the layer is made for images of shape {self.image}, got {tuple(x.shape[1:])}")
        channels, height, width = self.image
        count = height * width
        dense = self.weight.new_zeros(self.out_channels, count, channels * count)
        dense[:, self.rows, self.columns] = self.weight
        flat = F.linear(x.flatten(1), dense.flatten(0, 1), self.bias.flatten())
        return flat.view(len(x), self.out_channels, height, width)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"image={self.image}, out_channels={self.out_channels}, field={self.field}"
