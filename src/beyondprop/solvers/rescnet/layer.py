"""A layer of ResCNet once it is fitted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beyondprop.solvers.rescnet.filters import respond


class FittedLayer(nn.Module):
    """What a layer is once it is fitted: filters, the scale of what it hands on, and a linear classifier."""

    filters: Tensor
    shift: Tensor
    map_mean: Tensor
    map_scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, filters: tuple[int, ...], carry: int, weight: tuple[int, int]) -> None:
        super().__init__()
        for name, start in (
            ("filters", torch.zeros(filters)),
            ("shift", torch.zeros(filters[0])),
            ("map_mean", torch.zeros(carry)),
            ("map_scale", torch.ones(carry)),
            ("weight", torch.zeros(weight)),
            ("bias", torch.zeros(weight[0])),
        ):
            self.register_parameter(name, nn.Parameter(start, requires_grad=False))

    def responses(self, maps: Tensor, contrast: float | None) -> Tensor:
        """Of deviation 1 and mean 0 over the patches that the filters are from."""
        found = respond(maps, self.filters.to(maps.dtype), contrast)
        return found.sub_(self.shift.to(maps.dtype).view(-1, 1, 1))

    def carried(self, responses: Tensor, carry: int, offset: float, *, raw: bool = False) -> Tensor:
        """The first maps, rectified, of deviation 1 and mean 0 unless they are asked for as they are."""
        # Few of many channels that lie side by side are slow to go over more than once.
        maps = responses[:, :carry].clone(memory_format=torch.contiguous_format).sub_(offset).relu_()
        if raw:
            return maps
        mean, scale = (number.to(maps.dtype).view(-1, 1, 1) for number in (self.map_mean, self.map_scale))
        return maps.sub_(mean).mul_(scale)
