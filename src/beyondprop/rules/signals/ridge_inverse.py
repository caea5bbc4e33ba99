"""The regularized inverse of a linear map, and of a recurrent layer with tanh or ReLU units."""

from __future__ import annotations

import torch
from torch import Tensor

from beyondprop.errors import NonFiniteError, UserError


def ridge_inverse(weight: Tensor, regularisation: float, name: str) -> Tensor:
    """Compute W (WᵀW + r I)⁻¹ by one Cholesky factorisation.

    A row d times it is (WᵀW + r I)⁻¹ Wᵀ d = argmin_h ‖W h - d‖² + r ‖h‖².

    Args:
        weight: W, shape (..., outputs, inputs).
        regularisation: r, at least 0.
        name: Of the weight, for errors.

    Returns:
        Of W's shape.

    Raises:
        NonFiniteError: W holds NaN or infinity.
        UserError: WᵀW + r I is not positive definite to its precision.

    >>> ridge_inverse(torch.eye(2), 1.0, "W")
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))  # narrower types have no factorisation
    gram = wide.mT @ wide
    gram.diagonal(dim1=-2, dim2=-1).add_(regularisation)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed.any():
        if not weight.isfinite().all():
            raise NonFiniteError(f"{name} holds NaN or infinity: lower the learning rate")
        raise UserError(
            f"the inverse of {name} is lost to rounding: raise the regularisation, or lower the learning rate"
        )
    return torch.cholesky_solve(wide.mT, factor).mT.to(weight.dtype)


def unsquashed(states: Tensor, kind: str, clip: float) -> Tensor:
    """What a unit's argument must have been: atanh of states clipped to ±(1 - clip), or the positive part for ReLU."""
    return torch.relu(states) if kind == "relu" else torch.atanh(states.clamp(clip - 1, 1 - clip))
