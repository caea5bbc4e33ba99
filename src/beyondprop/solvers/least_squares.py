"""Linear least squares with a ridge, from data that pass by in batches."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import check_labels
from beyondprop.solver import Solver

PANEL = 1024  # columns of a panel: wide enough for a fast product, narrow enough to save nearly half of it


class LeastSquares(Solver):
    r"""Linear least squares of one or several outputs (the normal equations).

        W = argmin Σ_n ‖W f_n - y_n‖² + λ ‖W‖²,    λ = ridge · mean(diag FᵀF)
          = ((FᵀF + λ I)⁻¹ FᵀY)ᵀ

    for features F (N x D) and targets Y (N x C). One pass over the data, however many: FᵀF and FᵀY are summed batch by
    batch, products in float32 and sums in float64 (all in float64 for float64 features), and solved by Cholesky's
    method in float64. The memory is that of FᵀF, D x D in float64 (512 MiB for D = 8192), and of one batch. Large
    batches are faster, for each one is added to the whole sum.

    Args:
        features: D; inputs of more dimensions are flattened.
        outputs: C.
        ridge: λ in units of the mean squared norm of a feature over the data, so that the scale of the features is of
            no matter. The default only keeps the system solvable where features depend on each other: rounding in
            float32 is about 1e-6 in these units where there are more features than samples.

    Raises:
        UserError: `ridge` is negative or not finite; in `fit`, a label is no class index, or targets have another
            shape; or the system cannot be solved because the ridge is too small.
        NonFiniteError: In `fit`, when data hold NaN or infinity, or their squares overflow.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> LeastSquares(1, 1).fit(x, 3 * x).weight
    Parameter containing:
    tensor([[3.0000]])
    """

    def __init__(self, features: int, outputs: int, *, ridge: float = 1e-5) -> None:
        super().__init__()
        self.ridge = checked_ridge(ridge)
        self.weight = nn.Parameter(torch.zeros(outputs, features), requires_grad=False)
        self._sums: NormalEquations | None = None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Fit the inputs themselves to one-hot classes; of the classifier nothing is used."""
        del network
        return cls(example[0].numel(), classes, **options)

    def begin(self, part: str) -> None:
        """Make empty sums."""
        del part
        self._sums = NormalEquations(self.weight)

    def absorb(self, x: Tensor, y: Tensor, part: str) -> None:
        """Add a batch to the sums.

        Args:
            x: Features, shape (batch, ...).
            y: Class indices (batch,) of an integer type; or numbers (batch, C), or (batch,) where C = 1.
            part: The pass.
        """
        del part
        assert self._sums is not None, "begin comes first"
        self._sums.add(x, targets(y, len(self.weight)))

    def conclude(self, part: str) -> None:
        """Solve."""
        del part
        assert self._sums is not None, "begin comes first"
        sums, self._sums = self._sums, None
        self.weight.copy_(sums.solve(self.ridge))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is predicted, shape (batch, C); autocast does not reach it, nor the fit."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.flatten(1).to(self.weight.dtype), self.weight)


class NormalEquations:
    """FᵀF and FᵀY of the features and targets that were added, and their solution.

    Args:
        like: A weight, shape (C, D), on the device where the sums are to be.

    Attributes:
        gram: FᵀF, shape (D, D), float64. Only its upper triangle is right: below it, whole panels are never computed.
        cross: FᵀY, shape (D, C), float64.
    """

    def __init__(self, like: Tensor) -> None:
        outputs, size = like.shape
        self.gram = like.new_zeros((size, size), dtype=torch.float64)
        self.cross = like.new_zeros((size, outputs), dtype=torch.float64)

    def add(self, features: Tensor, y: Tensor) -> None:
        """Add a batch.

        Args:
            features: Shape (batch, ...), with D numbers a sample; narrower types are multiplied in float32.
            y: Shape (batch, C).

        Raises:
            NonFiniteError: A feature is NaN or infinite; the sums are as they were.
            UserError: The features are not D a sample.
        """
        size = len(self.gram)
        features = features.flatten(1)
        if features.shape[1] != size:
            raise UserError(f"a sample must have {size} features, got {features.shape[1]}")
        if not features.isfinite().all():
            raise NonFiniteError("the features hold NaN or infinity")
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        with torch.autocast(features.device.type, enabled=False):  # eight bits are too few for differences of sums
            for start in range(0, size, PANEL):
                panel = features[:, start : start + PANEL]
                self.gram[start : start + PANEL, start:] += panel.T @ features[:, start:]
            self.cross += features.T @ y.to(features.dtype)

    def solve(self, ridge: float) -> Tensor:
        """Solve, in the memory of the sums, which are gone afterwards.

        Args:
            ridge: As `LeastSquares` has it.

        Returns:
            W, shape (C, D), float64.

        Raises:
            NonFiniteError: The sums have overflowed.
            UserError: FᵀF with the ridge is not positive definite.
        """
        diagonal = self.gram.diagonal()
        scale = float(diagonal.mean())
        if not math.isfinite(scale) or not self.cross.isfinite().all():
            raise NonFiniteError("the squares of the features or targets overflow: scale them")
        if scale == 0:
            raise UserError("every feature is zero on all of the data: there is nothing to fit by")
        diagonal += ridge * scale
        # Column by column, as LAPACK reads it, the upper triangle is the lower one: nothing is copied.
        lower = self.gram.mT
        info = torch.empty((), dtype=torch.int32, device=lower.device)
        torch.linalg.cholesky_ex(lower, out=(lower, info))
        if info:
            raise UserError(
                f"the features depend on each other so closely that ridge {ridge:g} is too small to solve for them: "
                "raise the ridge, tenfold at first"
            )
        half = torch.linalg.solve_triangular(lower, self.cross, upper=False)
        return torch.linalg.solve_triangular(lower.mT, half, upper=True).T


def targets(y: Tensor, outputs: int) -> Tensor:
    """Make targets of what a data set says.

    Args:
        y: Class indices (batch,) of an integer type; or numbers (batch, C), or (batch,) where C = 1.
        outputs: C.

    Returns:
        Shape (batch, C), one-hot for classes.

    Raises:
        UserError: A label is no class index, or the shape is another.
    """
    if not y.is_floating_point():
        return F.one_hot(check_labels(y, outputs), outputs)
    if y.ndim == 1 and outputs == 1:
        return y[:, None]
    if y.shape[1:] != (outputs,):
        raise UserError(f"targets must have shape (batch, {outputs}), or be class indices: got {tuple(y.shape)}")
    return y


def checked_ridge(ridge: float) -> float:
    """Refuse a ridge that is no weight of a penalty.

    Raises:
        UserError: It is negative or not finite.
    """
    if not (math.isfinite(ridge) and ridge >= 0):
        raise UserError(f"ridge must be a finite number of at least 0, not {ridge}")
    return ridge
