"""A layer of ResCNet once it is fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.solvers.rescnet.features import Kind, can_pool, features_of, pooled_responses
from beyondprop.solvers.rescnet.filters import (
    PatchCovariance,
    patches_of,
    principal_filters,
    products,
    prototype_filters,
)
from beyondprop.solvers.rescnet.images import CHUNK

Basis = Literal["prototypes", "components"]


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

    def fit_filters(
        self,
        seen: Callable[[Tensor], Tensor],
        rows: Tensor,
        *,
        basis: Basis,
        contrast: float | None,
        floor: float,
        offset: float,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        """Principal components of the patches of some samples, and the scales of responses and of maps handed on.

        Args:
            seen: Gives the maps of samples, shape (chosen, channels, height, width), float32 at least.
            rows: Which samples, int64.
            basis: Of filters: prototypes, or the components.
            contrast: Of patches' normalisation.
            floor: Of whitening.
            offset: Of the rectification.
            dtype: In which maps are handed on.
            seed: Of prototypes.
        """
        count, channels, size, _ = self.filters.shape
        covariance = PatchCovariance(channels * size**2, rows.device)
        for chosen in rows.split(CHUNK):
            covariance.add(seen(chosen), size, contrast)
        if basis == "components":
            filters = principal_filters(covariance, count, channels)
        else:
            generator = torch.Generator().manual_seed(seed)
            drawn = rows[torch.randint(len(rows), (count,), generator=generator).to(rows.device)]
            pixels = seen(rows[:1])[0, 0].numel()
            places = torch.randint(pixels, (count,), generator=generator).to(rows.device)
            chunks = zip(drawn.split(CHUNK), places.split(CHUNK), strict=True)
            prototypes = [
                patches_of(seen(some), size, contrast)[torch.arange(len(some)), there] for some, there in chunks
            ]
            filters = prototype_filters(covariance, torch.cat(prototypes), floor, channels)
        each = filters.flatten(1)
        deviation = ((each @ covariance.matrix) * each).sum(dim=1).clamp(min=0).sqrt()
        each = each / torch.where(deviation > 1e-9, deviation, 1.0)[:, None]
        self.filters.copy_(each.view_as(filters))
        self.shift.copy_(each @ covariance.mean)
        if len(self.map_mean):
            handed = [
                self.carried(self.responses(seen(chosen).to(dtype), contrast), offset, raw=True)
                for chosen in rows.split(CHUNK)
            ]
            deviations, means = torch.std_mean(torch.cat(handed).double(), dim=(0, 2, 3))
            self.map_mean.copy_(means)
            self.map_scale.copy_(1 / torch.where(deviations > 1e-9, deviations, 1.0))

    def responses(self, maps: Tensor, contrast: float | None) -> Tensor:
        """Of deviation 1 and mean 0 over the patches that the filters are from."""
        return self._normalised(*products(maps, self.filters.to(maps.dtype), contrast))

    def look(
        self, maps: Tensor, *, contrast: float | None, kind: Kind, grid: int, offset: float
    ) -> tuple[Tensor, Tensor]:
        """What a layer makes of maps: its features, and the maps that it hands on.

        Args:
            maps: Shape (batch, channels, height, width).
            contrast: Of patches' normalisation.
            kind: Of features, as are grid and offset: see `features_of`.
            grid: Likewise.
            offset: Likewise.
        """
        if kind == "first" and can_pool(maps):
            found, scale = products(maps, self.filters.to(maps.dtype), contrast)
            features = pooled_responses(found, scale, self.shift, grid, offset)
            few = self._normalised(found[:, : len(self.map_mean)].to(torch.float32, copy=True), scale)
            return features, self.carried(few, offset).to(maps.dtype)
        responses = self.responses(maps, contrast)
        return features_of(responses, kind, grid, offset), self.carried(responses, offset)

    def carried(self, responses: Tensor, offset: float, *, raw: bool = False) -> Tensor:
        """The first maps, rectified, of deviation 1 and mean 0 unless they are asked for as they are."""
        # Few of many channels that lie side by side are slow to go over more than once.
        maps = F.relu(responses[:, : len(self.map_mean)].clone(memory_format=torch.contiguous_format).sub_(offset))
        if raw:
            return maps
        mean, scale = (number.to(maps.dtype).view(-1, 1, 1) for number in (self.map_mean, self.map_scale))
        return (maps - mean) * scale

    def _normalised(self, found: Tensor, scale: Tensor | None) -> Tensor:
        """Products with the first filters as responses, in place."""
        if scale is not None:
            found.mul_(scale.to(found.dtype).unsqueeze(1))
        return found.sub_(self.shift[: found.shape[1]].to(found.dtype).view(-1, 1, 1))
