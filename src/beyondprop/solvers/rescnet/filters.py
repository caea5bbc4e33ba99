"""Filters of image patches by principal components, from data that pass by in batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.solvers.rescnet.images import widened


def patches_of(maps: Tensor, size: int, contrast: float | None) -> Tensor:
    """All patches of some maps, zero outside, without their mean.

    Args:
        maps: Shape (batch, channels, height, width).
        size: Side of a patch, odd.
        contrast: Added to a patch's variance before it is divided by its deviation; None does not divide.

    Returns:
        Shape (batch, positions, channels size²).
    """
    found = F.unfold(maps, size, padding=size // 2).mT
    found = found - found.mean(dim=2, keepdim=True)
    if contrast is None:
        return found
    return found / (found.square().mean(dim=2, keepdim=True) + contrast).sqrt()


def respond(maps: Tensor, filters: Tensor, contrast: float | None) -> Tensor:
    """Products of filters with every patch of `patches_of`, without the patches being written down.

    Args:
        maps: Shape (batch, channels, height, width).
        filters: Shape (F, channels, size, size); their numbers sum to zero, so that a patch's mean is of no matter.
        contrast: As in `patches_of`.

    Returns:
        Shape (batch, F, height, width).
    """
    found, scale = products(maps, filters, contrast)
    return found if scale is None else found.mul_(scale.to(found.dtype).unsqueeze(1))


def products(maps: Tensor, filters: Tensor, contrast: float | None) -> tuple[Tensor, Tensor | None]:
    """What `respond` multiplies: products with patches as they are, and `patch_scales`, or None without contrast."""
    size = filters.shape[-1]
    found = F.conv2d(maps, filters, padding=size // 2)
    return found, None if contrast is None else patch_scales(maps, size, contrast)


def patch_scales(maps: Tensor, size: int, contrast: float) -> Tensor:
    """What `patches_of` multiplies each patch by, shape (batch, height, width), in float32 at least."""
    numbers = widened(maps)
    moments = torch.stack([numbers.mean(dim=1), numbers.square().mean(dim=1)])
    moments = moments.double()  # which no setting of torch rounds
    # Means along one side, then the other: products with bands are several times as fast as pooling one channel.
    down, across = (_window_means(side, size, moments) for side in maps.shape[2:])
    mean, square = down @ moments @ across.T
    return ((square - mean.square()).clamp(min=0) + contrast).rsqrt().to(numbers.dtype)


def _window_means(length: int, size: int, like: Tensor) -> Tensor:
    """The matrix that takes means of `size` neighbours, zero outside, shape (length, length)."""
    places = torch.arange(length, device=like.device)
    return ((places[:, None] - places).abs() <= size // 2).to(like.dtype) / size


class PatchCovariance:
    """Mean and covariance of patches of maps that pass by, summed in float64 from products in the maps' precision.

    Args:
        dimension: Numbers of a patch.
        device: Where the sums are.
    """

    def __init__(self, dimension: int, device: torch.device) -> None:
        self.count = 0
        self._sum = torch.zeros(dimension, dtype=torch.float64, device=device)
        self._products = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)

    def add(self, maps: Tensor, size: int, contrast: float | None = None) -> None:
        """Add every patch of some maps: the rows that `patches_of` gives, sooner.

        With H = I - 11ᵀ/d that takes the mean off a patch of d numbers, and s what divides it by its deviation,
        Σ (sHp)(sHp)ᵀ = H (Σ sp (sp)ᵀ) H. So patches are written down once, and changed at most once. An image's mean
        comes off before, for products to lose no digits to it: H has no eye for what all numbers of a patch share.

        Args:
            maps: Shape (batch, channels, height, width).
            size: Side of a patch.
            contrast: As in `patches_of`.
        """
        maps = widened(maps)
        if not maps.isfinite().all():
            raise NonFiniteError("the maps hold NaN or infinity: check the images")
        padded = F.pad(maps, 4 * [size // 2]) - maps.mean(dim=(1, 2, 3), keepdim=True)
        columns = F.unfold(padded, size)  # (batch, d, positions)
        if contrast is not None:
            columns *= patch_scales(maps, size, contrast).flatten(1).unsqueeze(1)
        products = torch.bmm(columns, columns.mT).sum(dim=0, dtype=torch.float64)
        if not products.isfinite().all():
            raise NonFiniteError("the maps hold numbers whose squares are infinite: scale the images")
        total = columns.sum(dim=2).sum(dim=0, dtype=torch.float64)
        without = torch.eye(len(total), dtype=torch.float64, device=total.device) - 1 / len(total)
        self.count += columns.shape[0] * columns.shape[2]
        self._sum += without @ total
        self._products += without @ products @ without

    @property
    def mean(self) -> Tensor:
        """Shape (dimension,)."""
        return self._sum / self.count

    @property
    def matrix(self) -> Tensor:
        """Covariance, divided by the count less one, as everywhere."""
        return (self._products - self.count * torch.outer(self.mean, self.mean)) / max(self.count - 1, 1)

    def components(self) -> tuple[Tensor, Tensor]:
        """Variances in falling order, and principal components, one a row; the largest entry of each is positive."""
        values, vectors = torch.linalg.eigh(self.matrix)
        rows = vectors.flip(1).T
        largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
        return values.flip(0).clamp(min=0), rows * largest.sign()


def principal_filters(covariance: PatchCovariance, count: int, channels: int) -> Tensor:
    """The leading principal components as filters, shape (count, channels, size, size).

    Raises:
        UserError: A patch has not so many numbers (its mean, which is removed, leaves one less).
    """
    _, rows = covariance.components()
    if count > len(rows) - 1:
        raise UserError(f"patches of {len(rows)} numbers have {len(rows) - 1} principal components, not {count}")
    size = round((len(rows) // channels) ** 0.5)
    return rows[:count].reshape(count, channels, size, size)


def prototype_filters(covariance: PatchCovariance, patches: Tensor, floor: float, channels: int) -> Tensor:
    r"""Filters that compare a patch with others in the whitened space of principal components.

        w_p = C⁻¹ (p - mean) / ‖C^{-1/2} (p - mean)‖,    C = V (Λ + floor · mean(Λ)) Vᵀ

    As wide as one likes, where principal components are as many as a patch has numbers.

    Args:
        covariance: Of patches.
        patches: p, shape (count, dimension).
        floor: Keeps components of little variance from being blown up.
        channels: Of the maps.
    """
    values, rows = covariance.components()
    values, rows = values[:-1], rows[:-1]  # the last one is the mean of a patch, which is removed
    whiten = rows / (values + floor * values.mean()).sqrt()[:, None]
    coordinates = (patches.double() - covariance.mean) @ whiten.T
    coordinates = coordinates / coordinates.norm(dim=1, keepdim=True).clamp(min=1e-12)
    size = round((patches.shape[1] // channels) ** 0.5)
    return (coordinates @ whiten).reshape(len(patches), channels, size, size)
