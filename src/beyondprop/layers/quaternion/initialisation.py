"""Initial quaternion weights: a modulus of the right variance, a random direction and a random angle."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError

Criterion = Literal["glorot", "he"]


def quaternion_(weight: Tensor, inputs: int, outputs: int, criterion: Criterion = "he") -> Tensor:
    """Draw quaternion weights in polar form (Parcollet et al., arXiv 1806.04418, Section 3.4), in place.

        w = φ (cos θ + n sin θ),    n a uniformly distributed pure unit quaternion,    θ uniform in [-π, π]

    The paper draws φ from the distribution of the modulus of four independent normal components, chi with four degrees
    of freedom, of standard deviation σ each. So E‖w‖² = 4σ², and an output, a sum over `inputs` quaternions, has per
    component 4σ² `inputs` times the mean square of an input's component. Glorot's criterion, σ² = 1/(2 (inputs +
    outputs)), keeps that and the gradient's even between them; He's, σ² = 1/(2 inputs), doubles it, for ReLU.

    Args:
        weight: Shape (4, ...).
        inputs: Quaternions that each output sums over.
        outputs: Quaternions that each input acts on.
        criterion: Glorot's or He's.

    Raises:
        UserError: The first dimension is not 4, or the criterion is unknown.
    """
    if weight.ndim < 1 or weight.shape[0] != 4:
        raise UserError(f"quaternion weights have a first dimension of 4, got shape {tuple(weight.shape)}")
    if criterion not in ("glorot", "he"):
        raise UserError(f"criterion must be 'glorot' or 'he', not {criterion!r}")
    sigma = (2 * (inputs + outputs if criterion == "glorot" else inputs)) ** -0.5
    with torch.no_grad():
        modulus = torch.linalg.vector_norm(torch.randn_like(weight), dim=0) * sigma
        axis = nn.functional.normalize(torch.randn_like(weight[1:]), dim=0)
        theta = torch.empty_like(modulus).uniform_(-math.pi, math.pi)
        weight[0] = modulus * theta.cos()
        weight[1:] = modulus * theta.sin() * axis
    return weight
