"""Ridge regression with an intercept on standardised features, with the leave-one-out residuals in closed form."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.solvers.rescnet.images import widened

BLOCK = 4096  # samples of a product
NARROW, WIDE = 2.0**-8, 1e-12  # the smallest share that leaving a sample out may leave of its residual, by precision
STRIPES = 4  # of a symmetric matrix: of each, what lies before the diagonal is left out


@contextlib.contextmanager
def narrow_products(active: bool) -> Iterator[None]:
    """Within it, float32 matrix products on the CPU round their factors to bfloat16 and add up in float32."""
    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16" if active else before
    try:
        yield
    finally:
        setting.fp32_precision = before


class RidgeClassifier:
    r"""Ridge regression with a free intercept.

        β = (ZᵀZ + n λ I)⁻¹ ZᵀR,    Z = (Φ - μ) / σ,    Φ -> Z β + mean(R)

    and the leave-one-out residuals: what is left of a sample's target when all is fitted without it, at the same σ,

        r_i / (1 - h_i),    h_i = 1/n + z_iᵀ (ZᵀZ + n λ I)⁻¹ z_i

    The sums are made in float64 from products in the features' own precision; the system is solved in float64.

    Args:
        features: Φ, shape (n, D), on disk or in memory.
        targets: R, shape (n, K).
        ridge: λ: 1 is as strong as the features themselves, which are standardised.
        floor: σ² is the variance and this times the mean variance: a feature that hardly ever varies is not blown up.
        narrow: Whether products may round features to bfloat16, as they are where features are stored in it.

    Attributes:
        weight: In terms of Φ, shape (K, D), float64.
        bias: Shape (K,), float64.

    Raises:
        NonFiniteError: The features hold NaN or infinity.
        UserError: The ridge is too small for features that depend on each other.
    """

    def __init__(
        self, features: Tensor, targets: Tensor, ridge: float, *, floor: float = 0.0, narrow: bool = False
    ) -> None:
        count, size = features.shape
        gram = torch.zeros(size, size, dtype=torch.float64, device=features.device)
        total, cross = gram.new_zeros(size), gram.new_zeros(size, targets.shape[1])
        offset = widened(features[: min(BLOCK, count)]).mean(dim=0)  # sums about it lose no digits to a large mean
        mean_target = targets.double().mean(dim=0)
        self.narrow, self._offset = narrow, offset
        for start in range(0, count, BLOCK):
            block = widened(features[start : start + BLOCK]) - offset
            wanted = (targets[start : start + BLOCK].double() - mean_target).to(block.dtype)
            total += block.sum(dim=0, dtype=torch.float64)
            with narrow_products(narrow):
                _add_products(gram, block)
            cross += block.T @ wanted
        if not total.isfinite().all() or not cross.isfinite().all():
            raise NonFiniteError("the features hold NaN or infinity")
        gram.triu_()
        gram += gram.triu(1).T
        mean = total / count
        gram -= count * torch.outer(mean, mean)
        deviation = (gram.diagonal() / count).clamp(min=0).sqrt()
        # What is constant, or all but, says nothing: it is left out of the fit rather than blown up.
        softened = (deviation.square() + floor * deviation.square().mean()).sqrt()
        scale = torch.where(deviation > 1e-6 * deviation.max(), 1 / softened, 0.0)
        gram *= torch.outer(scale, scale)
        gram.diagonal().add_(count * ridge)
        factor, info = torch.linalg.cholesky_ex(gram)
        if info or not math.isfinite(float(factor[-1, -1])):
            raise UserError(
                f"ridge {ridge:g} is too small for features that depend on each other: raise it, tenfold at first"
            )
        coefficients = torch.cholesky_solve(cross * scale[:, None], factor)
        self.count, self._mean, self._factor, self._scale = count, mean, factor, scale
        self.weight = (coefficients * scale[:, None]).T
        self.bias = mean_target - self.weight @ (mean + offset)

    def left_over(self, features: Tensor) -> Tensor:
        """1 - h of the samples that it was fitted to, shape (n,), float64: above 0, whatever rounding makes of it."""
        return (1 - self.leverages(features)).clamp(min=NARROW if self.narrow else WIDE)

    def leverages(self, features: Tensor) -> Tensor:
        """The leverages h of the samples that it was fitted to, shape (n,), float64."""
        root = torch.linalg.solve_triangular(self._factor, torch.diag(self._scale), upper=False).T  # z -> L⁻¹ z, from φ
        found = []
        for block in features.split(BLOCK):
            # Near 1 float32 leaves 1 - h few digits; bfloat16, where it is asked for, leaves what it can.
            rows = widened(block) if self.narrow else block.double()
            centred = rows - self._offset.to(rows.dtype) - self._mean.to(rows.dtype)
            with narrow_products(self.narrow):
                found.append((centred @ root.to(centred.dtype)).square().sum(dim=1, dtype=torch.float64))
        return torch.cat(found) + 1 / self.count

    def predicted(self, features: Tensor) -> Tensor:
        """Φ βᵀ + bias, shape (n, K), in the features' precision, float32 at least."""
        found = []
        for block in features.split(BLOCK):
            rows = widened(block)
            found.append(rows @ self.weight.T.to(rows.dtype) + self.bias.to(rows.dtype))
        return torch.cat(found)


def _add_products(gram: Tensor, block: Tensor) -> None:
    """Add blockᵀ block to the upper triangle of a matrix, and to some of what lies below it."""
    ends = [len(gram) * stripe // STRIPES for stripe in range(STRIPES + 1)]
    for first, last in itertools.pairwise(ends):
        gram[first:last, first:] += block[:, first:last].T @ block[:, first:]
