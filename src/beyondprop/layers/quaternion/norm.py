"""Normalisation of quaternions: over a batch by modulus or by whitening, and over a layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function

from beyondprop.checks import check_number
from beyondprop.errors import UserError
from beyondprop.layers.quaternion.algebra import check_quarters
from beyondprop.layers.quaternion.linear import check_width


class NormaliseByModulus(Function):
    """x̂ = γ (x - μ) / √(v + ε) + β by torch's kernels for batches: μ of each component, v and γ of each quaternion.

    With N numbers of a component and S = Σ g (x - μ) / √(v + ε) summed over the four components,

        dx = γ / √(v + ε) · [g - Σ g / N - (x - μ) / √(v + ε) · S / 4N]

    `apply(x, gamma, beta, statistics, eps)` takes γ, and μ above v, repeated for the four blocks.
    """

    @staticmethod
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, statistics: Tensor, eps: float) -> Tensor:
        """Normalise."""
        return torch.nn.functional.batch_norm(x, statistics[0], statistics[1], gamma, beta, eps=eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the input and the statistics."""
        del output
        x, gamma, _, statistics, ctx.eps = inputs
        ctx.save_for_backward(x, gamma, statistics)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """See the formula."""
        x, gamma, (mean, variance) = ctx.saved_tensors
        inverse, count = (variance + ctx.eps).rsqrt(), x.numel() / x.shape[1]
        _, along, total = torch.ops.aten.native_batch_norm_backward(
            g, x, gamma, None, None, mean, inverse, True, ctx.eps, [False, True, True]
        )
        shared = along.view(4, -1).mean(0).repeat(4) / count
        # Two affine maps of channels, one of g and one of x, by the same kernel, which keeps short dtypes precise.
        one, zero = torch.ones_like(mean), torch.zeros_like(mean)
        scale = gamma * inverse
        dx = torch.nn.functional.batch_norm(g, total / count, one, scale, zero, eps=0.0)
        dx -= torch.nn.functional.batch_norm(x, mean, one, scale * inverse * shared, zero, eps=0.0)
        return dx, along, total, None, None


class _QuaternionBatchNorm(nn.Module):
    """What the three have in common."""

    dims: ClassVar[tuple[int, ...]]
    running_mean: Tensor
    running_covariance: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        by: Literal["modulus", "whitening"] = "modulus",
    ) -> None:
        check_quarters(num_features=num_features)
        check_number(eps=eps, momentum=momentum)
        if by not in ("modulus", "whitening"):
            raise UserError(f"by must be 'modulus' or 'whitening', not {by!r}")
        super().__init__()
        self.num_features, self.eps, self.momentum, self.by = num_features, eps, momentum, by
        count = num_features // 4
        shape = (count,) if by == "modulus" else (count, 4, 4)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer(
            "running_covariance", torch.ones(count) if by == "modulus" else torch.eye(4).repeat(count, 1, 1)
        )
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set γ to 1 or the identity, β to 0, and forget batches."""
        with torch.no_grad():
            if self.by == "modulus":
                self.weight.fill_(1.0)
                self.running_covariance.fill_(1.0)
            else:
                self.weight.copy_(torch.eye(4).expand_as(self.weight))
                self.running_covariance.copy_(torch.eye(4).expand_as(self.weight))
            self.bias.zero_()
            self.running_mean.zero_()
            self.num_batches_tracked.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, of its shape: (batch, num_features, *places)."""
        name = type(self).__name__
        if x.ndim not in self.dims:
            raise UserError(f"{name} takes {' or '.join(map(str, self.dims))} dimensions, got shape {tuple(x.shape)}")
        check_width(x, 1, self.num_features, name)
        if self.training and x.numel() == x.shape[1]:
            raise UserError(f"{name} needs more than one value of each channel in training, got shape {tuple(x.shape)}")
        return self._by_modulus(x) if self.by == "modulus" else self._by_whitening(x)

    def _by_modulus(self, x: Tensor) -> Tensor:
        gamma = self.weight.repeat(4)
        if not self.training:
            variance = self.running_covariance.repeat(4)
            return nn.functional.batch_norm(x, self.running_mean, variance, gamma, self.bias, eps=self.eps)
        with torch.no_grad():
            mean, each = _statistics(x)
            shared = each.view(4, -1).mean(0)
            self._remember(mean, shared, x)
        return NormaliseByModulus.apply(x, gamma, self.bias, torch.stack((mean, shared.repeat(4))), self.eps)

    def _by_whitening(self, x: Tensor) -> Tensor:
        long = x.to(torch.promote_types(x.dtype, torch.float32))
        q = long.view(len(x), 4, self.num_features // 4, -1)
        if self.training:
            mean = q.mean((0, 3))
            centred = q - mean[..., None]
            covariance = torch.einsum("bpnt,bqnt->npq", centred, centred) / (x.numel() / x.shape[1])
            with torch.no_grad():
                self._remember(mean.flatten(), covariance, x)
        else:
            centred, covariance = q - self.running_mean.view(4, -1, 1), self.running_covariance
        chol = torch.linalg.cholesky(covariance + self.eps * torch.eye(4, dtype=q.dtype, device=q.device))
        symmetric = (self.weight + self.weight.mT) / 2
        matrix = torch.linalg.solve_triangular(chol, symmetric, upper=False, left=False)
        y = torch.einsum("npq,bqnt->bpnt", matrix, centred) + self.bias.view(4, -1, 1)
        return y.reshape(x.shape).to(x.dtype)

    def _remember(self, mean: Tensor, covariance: Tensor, x: Tensor) -> None:
        """Move the running statistics; those of covariances without the bias of a sample, as torch's."""
        count = x.numel() / x.shape[1]
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = covariance.to(self.running_covariance.dtype) * (count / (count - 1))
        self.running_covariance.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += 1

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, by={self.by}"


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, in float32 at least."""
    if x.device.type == "cpu":
        # The kernel's own dtype follows that of the running statistics, which stay as they are with momentum 0.
        unused = x.new_zeros(2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        mean, variance = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
        return mean, variance
    variance, mean = torch.var_mean(
        x.to(torch.promote_types(x.dtype, torch.float32)), (0, *range(2, x.ndim)), correction=0
    )
    return mean, variance


class QuaternionBatchNorm1d(_QuaternionBatchNorm):
    """Batch normalisation of quaternions, shape (batch, features) or (batch, features, length).

    By modulus: each component loses its mean, and all four are divided by one standard deviation, the root of the mean
    of their variances, so that directions are kept; γ is a real number for each quaternion, β a quaternion.

        y = γ (x - μ) / √(E‖x - μ‖² / 4 + ε) + β

    By whitening (Gaudet and Maida, arXiv 1712.04604, Section 3.4): the four components are decorrelated by the Cholesky
    factor L of the inverse of their covariance; γ is a symmetric real 4x4 matrix. The paper starts its diagonal at 1/2
    so that E‖y‖² = 1; we start it at 1, as by modulus, where each component has variance 1.

        y = γ L⁻¹ (x - μ) + β,    L Lᵀ = cov(x) + ε I

    Args:
        num_features: Real numbers, a multiple of four.
        eps: Added to variances.
        momentum: Share of a batch's statistics in the running ones.
        by: "modulus" or "whitening".

    Raises:
        UserError: `num_features` is no multiple of four, an option is unknown; in a call, the input has another shape,
            or one value a channel in training.

    >>> QuaternionBatchNorm1d(8)(torch.randn(5, 8)).shape
    torch.Size([5, 8])
    """

    dims = (2, 3)


class QuaternionBatchNorm2d(_QuaternionBatchNorm):
    """Batch normalisation of quaternions, shape (batch, features, height, width); see `QuaternionBatchNorm1d`."""

    dims = (4,)


class QuaternionBatchNorm3d(_QuaternionBatchNorm):
    """Batch normalisation of quaternions over three dimensions; see `QuaternionBatchNorm1d`."""

    dims = (5,)


class QuaternionLayerNorm(nn.Module):
    """Layer normalisation of quaternions: over all quaternions of the last dimension.

        y = γ (x - μ) / √(mean ‖x - μ‖² / 4 + ε) + β

    μ is the mean quaternion of the layer, γ a real number for each quaternion, β a quaternion. Turning all quaternions
    of x by the same rotation turns x̂ = (y - β) / γ by it.

    Args:
        features: Real numbers, a multiple of four.
        eps: Added to the variance.

    Raises:
        UserError: `features` is no multiple of four; in a call, the input has another width.

    >>> QuaternionLayerNorm(8)(torch.randn(5, 8)).shape
    torch.Size([5, 8])
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        check_quarters(features=features)
        check_number(eps=eps)
        super().__init__()
        self.features, self.eps = features, eps
        self.weight = nn.Parameter(torch.ones(features // 4))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, of its shape."""
        check_width(x, -1, self.features, "QuaternionLayerNorm")
        q = x.reshape(*x.shape[:-1], 4, self.features // 4)
        centred = q - q.mean(-1, keepdim=True)
        scale = (centred.square().mean((-2, -1), keepdim=True) + self.eps).rsqrt()
        return (centred * scale * self.weight).reshape(x.shape) + self.bias

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.features}, eps={self.eps}"
