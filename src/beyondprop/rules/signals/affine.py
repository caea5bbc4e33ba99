"""Linear and convolutional layers as what they are, Y = W X, and the least-squares steps that this allows.

One row of X is one input of W: a sample of a linear layer, a patch of a convolution. A trained bias is a weight whose
input is always 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from beyondprop.errors import UserError
from beyondprop.rules.signals.layers import computes_as, find_layers


def is_affine(layer: nn.Module) -> bool:
    """Whether a layer is a linear one or a convolution of torch's own, with a weight that is its own parameter."""
    usual = computes_as(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return usual and layer._parameters.get("weight") is not None


def find_affine(network: nn.Module) -> dict[str, nn.Module]:
    """Find the layers that are affine and share no parameter with another module, by name."""
    owners: dict[Tensor, int] = {}
    for module in network.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[parameter] = owners.get(parameter, 0) + 1
    return {
        name: layer
        for name, layer in find_layers(network).items()
        if is_affine(layer) and all(owners[parameter] == 1 for parameter in layer.parameters())
    }


def trained(layer: nn.Module) -> list[nn.Parameter]:
    """The weight and the bias, without what is frozen."""
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


def input_rows(layer: nn.Module, x: Tensor) -> Tensor:
    """Lay out a layer's input as rows of X, in float32 or better: only inputs of what is trained.

    Args:
        layer: Affine.
        x: Its input.

    Returns:
        Shape (groups, n, d): n samples, or patches of all samples; d numbers, the last of them 1 where the bias learns.
    """
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    rows = _patches(layer, x) if isinstance(layer, _ConvNd) else x.flatten(0, -2)[None]
    parts = [rows] if layer.weight.requires_grad else []
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(rows.new_ones(()).expand(*rows.shape[:2], 1))
    return torch.cat(parts, dim=2)


def output_rows(layer: nn.Module, y: Tensor) -> Tensor:
    """Lay out what has the shape of a layer's output as the rows of Y, shape (groups, n, m), in float32 or better."""
    y = y.detach().to(torch.promote_types(y.dtype, torch.float32))
    if not isinstance(layer, _ConvNd):
        return y.flatten(0, -2)[None]
    places = y.movedim(-1 - len(layer.kernel_size), -1)
    return places.reshape(-1, layer.groups, layer.out_channels // layer.groups).transpose(0, 1)


def by_parameter(layer: nn.Module, change: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Take a change of W, shape (groups, m, d), apart into those of the trained parameters, of their own layouts."""
    for parameter in trained(layer):
        part = change[..., -1] if parameter is layer.bias else change[..., : parameter[0].numel()]
        yield parameter, torch.empty_like(parameter).copy_(part.reshape(parameter.shape))


def _patches(layer: _ConvNd, x: Tensor) -> Tensor:
    """The patches that a convolution multiplies with its kernels, shape (groups, n, input channels * kernel size)."""
    dims = len(layer.kernel_size)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x.reshape(-1, *x.shape[-1 - dims :]), layer._reversed_padding_repeated_twice, mode=mode)
    for i, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        x = x.unfold(2 + i, dilation * (size - 1) + 1, stride)[..., ::dilation]
    x = x.unflatten(1, (layer.groups, -1)).transpose(0, 1)  # groups, batch, channels, places, kernel
    places = x.movedim(2, 2 + dims)
    return places.reshape(layer.groups, -1, layer.weight[0].numel())


class Ridge:
    """The ridge regression of changes of Y on rows X, for a given X.

        deltaᵀ X (XᵀX + cI)⁻¹  =  deltaᵀ (XXᵀ + cI)⁻¹ X

    by the Cholesky factor of the smaller of the two Gram matrices. (X holds samples as rows here, where the papers have
    them as columns.) It is factored anew in float64 where float32 is too coarse for a small c.

    Args:
        rows: X, shape (groups, n, d).
        regularisation: c > 0.

    Raises:
        UserError: The Gram matrix is singular even in float64.
    """

    def __init__(self, rows: Tensor, regularisation: float) -> None:
        self.rows = rows
        self.by_samples = rows.shape[1] < rows.shape[2]
        factor = self._factor(rows, regularisation)
        if factor is None:
            factor = self._factor(rows.double(), regularisation)
        if factor is None:
            raise UserError(
                f"the Gram matrix of a layer's inputs is singular with {regularisation} added to its diagonal: add more"
            )
        self.factor = factor

    def _factor(self, rows: Tensor, regularisation: float) -> Tensor | None:
        gram = rows @ rows.mT if self.by_samples else rows.mT @ rows
        gram.diagonal(dim1=-2, dim2=-1).add_(regularisation)
        factor, failed = torch.linalg.cholesky_ex(gram)
        return None if failed.any() else factor

    def solve(self, delta: Tensor) -> Tensor:
        """Fit a change of W to changes of Y.

        Args:
            delta: Shape (groups, n, m).

        Returns:
            Shape (groups, m, d), of X's type.
        """
        if self.by_samples:
            return self._divided(delta).mT @ self.rows
        return self._divided(self.rows.mT @ delta).mT

    def _divided(self, right: Tensor) -> Tensor:
        return torch.cholesky_solve(right.to(self.factor.dtype), self.factor).to(self.rows.dtype)


def conjugate_gradients(rows: Tensor, delta: Tensor, regularisation: float, steps: int) -> Tensor:
    """Approach `Ridge(rows, regularisation).solve(delta)` by conjugate gradients from 0, for every output by itself.

    Args:
        rows: X, shape (groups, n, d).
        delta: Shape (groups, n, m).
        regularisation: c.
        steps: Of the conjugate gradients; d of them give the solution, but for rounding.

    Returns:
        Shape (groups, m, d).
    """
    residual = delta.mT @ rows
    change, direction = torch.zeros_like(residual), residual
    size = residual.square().sum(dim=-1, keepdim=True)
    for _ in range(steps):
        image = (direction @ rows.mT) @ rows + regularisation * direction
        alpha = _ratio(size, (direction * image).sum(dim=-1, keepdim=True))
        change = change + alpha * direction
        residual = residual - alpha * image
        former, size = size, residual.square().sum(dim=-1, keepdim=True)
        direction = residual + _ratio(size, former) * direction
    return change


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Their quotient, 0 where nothing is left to divide."""
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0)
