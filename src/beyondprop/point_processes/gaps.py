"""Distributions of the time to the next event, whose parameters a network gives."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError

Family = Literal["exponential", "rayleigh", "gamma", "weibull", "log-normal"]
GapName = Literal["exponential", "rayleigh", "gamma", "weibull", "log-normal", "mixture"]
SHAPES = {"gamma": 1.0, "weibull": 1.0, "log-normal": 1.0}  # of which Gamma's and Weibull's are the exponential
LEAST_MEAN = 1e-4


class MomentMatched(nn.Module):
    r"""A one-parameter family whose mean is the network's output: the likelihood-ratio losses of arXiv 2107.03354.

    With the gap :math:`\tau` and the mean :math:`m`, up to what does not depend on m, the loss is

    - exponential: :math:`\log m + \tau / m`;
    - Rayleigh: :math:`2 \log m + \frac{\pi}{4} (\tau / m)^2`;
    - Gamma of shape k: :math:`k (\log m + \tau / m)`;
    - Weibull of shape k: :math:`k \log m + (\Gamma(1 + 1/k)\, \tau / m)^k`;
    - log-normal of deviation s: :math:`(\log \tau - \log m + s^2 / 2)^2 / (2 s^2)`.

    The paper's own table of families could not be had; these are derived by matching the mean. The densities are whole,
    so that families can be compared.

    Args:
        family: Which.
        shape: k or s, above 0; None for 1. The exponential and Rayleigh have none.
        learned: Whether the shape is learned, one for all events; in the term after a sequence's last event Gamma's
            stays as it is, for its derivative has no closed form.

    Raises:
        UserError: There is no such family, or the shape is out of range.

    >>> family = MomentMatched("gamma", shape=2.0)
    >>> float(family.likelihood_ratio(torch.tensor(3.0), torch.tensor(3.0)))
    0.0
    """

    outputs = 1

    def __init__(self, family: Family = "exponential", *, shape: float | None = None, learned: bool = False) -> None:
        super().__init__()
        if family not in get_args(Family):
            raise UserError(f"a gap's family must be one of {', '.join(get_args(Family))}, not {family!r}")
        if family not in SHAPES and (shape is not None or learned):
            raise UserError(f"the {family} distribution has no shape: leave it out")
        value = SHAPES.get(family, 1.0) if shape is None else shape
        if not 0 < value < math.inf:
            raise UserError(f"shape must be a number above 0, got {value!r}")
        self.family = family
        logarithm = torch.tensor(math.log(value))
        self.log_shape: Tensor
        if learned:
            self.log_shape = nn.Parameter(logarithm)
        else:
            self.register_buffer("log_shape", logarithm)

    def mean(self, outputs: Tensor, horizon: Tensor | None = None) -> Tensor:
        """Expected gaps, shape (n,), from outputs of shape (n, 1); above 0, whatever the horizon."""
        del horizon
        return F.softplus(outputs.squeeze(1)) + LEAST_MEAN

    def log_density(self, gap: Tensor, outputs: Tensor) -> Tensor:
        """Of gaps of shape (n,)."""
        return self.log_density_at(gap, self.mean(outputs))

    def log_survival(self, gap: Tensor, outputs: Tensor) -> Tensor:
        """Log-probability that the gap is longer."""
        return self.log_survival_at(gap, self.mean(outputs))

    def log_density_at(self, gap: Tensor, mean: Tensor) -> Tensor:
        """Of gaps under given means."""
        shape, ratio = self.log_shape.exp(), gap / mean
        if self.family == "exponential":
            return -torch.log(mean) - ratio
        if self.family == "rayleigh":
            return math.log(math.pi / 2) + torch.log(gap) - 2 * torch.log(mean) - math.pi / 4 * ratio.square()
        if self.family == "gamma":
            constant = shape * self.log_shape - torch.lgamma(shape)
            return constant + (shape - 1) * torch.log(gap) - shape * (torch.log(mean) + ratio)
        if self.family == "weibull":
            stretched = torch.log(ratio) + torch.lgamma(1 + 1 / shape)
            return self.log_shape - torch.log(gap) + shape * stretched - torch.exp(shape * stretched)
        z = self._standardised(gap, mean)
        return -z.square() / 2 - torch.log(gap) - self.log_shape - math.log(2 * math.pi) / 2

    def log_survival_at(self, gap: Tensor, mean: Tensor) -> Tensor:
        """Log-probability of longer gaps under given means."""
        shape, ratio = self.log_shape.exp(), gap / mean
        if self.family == "exponential":
            return -ratio
        if self.family == "rayleigh":
            return -math.pi / 4 * ratio.square()
        if self.family == "weibull":
            return -torch.exp(shape * (torch.log(ratio) + torch.lgamma(1 + 1 / shape)))
        if self.family == "gamma":
            k = shape.detach()
            tail = torch.special.gammaincc(k.expand_as(ratio), k * ratio)
            return torch.log(tail.clamp(min=torch.finfo(tail.dtype).tiny))
        return torch.special.log_ndtr(-self._standardised(gap, mean))

    def likelihood_ratio(self, gap: Tensor, mean: Tensor) -> Tensor:
        """Log of the density under the mean that fits this gap best, over that under `mean`: at least 0.

        Its gradient with respect to the mean is that of the negative log-likelihood.
        """
        shape = self.log_shape.exp()
        best = {
            "rayleigh": torch.full_like(shape, math.sqrt(math.pi) / 2),
            "weibull": torch.exp(torch.lgamma(1 + 1 / shape)),
            "log-normal": torch.exp(shape.square() / 2),
        }.get(self.family, torch.ones_like(shape))
        return self.log_density_at(gap, best * gap) - self.log_density_at(gap, mean)

    def _standardised(self, gap: Tensor, mean: Tensor) -> Tensor:
        shape = self.log_shape.exp()
        return (torch.log(gap) - torch.log(mean) + shape.square() / 2) / shape


class LogNormalMixture(nn.Module):
    """A mixture of log-normal distributions, all of whose parameters the network gives (arXiv 1909.12127).

    Args:
        components: Number of them.
        least: Of their deviations: a component on a single value would have no bound.
    """

    def __init__(self, components: int = 8, *, least: float = 0.05) -> None:
        super().__init__()
        self.components, self.least = components, least
        self.outputs = 3 * components
        # Components begin side by side, from a thousandth of the mean gap to ten of it.
        self.register_buffer("centres", torch.linspace(math.log(1e-3), math.log(10.0), components))

    centres: Tensor

    def parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and deviations of the logarithm, each (n, components)."""
        weights, centres, deviations = outputs.chunk(3, 1)
        return weights.log_softmax(1), centres + self.centres, F.softplus(deviations) + self.least

    def log_density(self, gap: Tensor, outputs: Tensor) -> Tensor:
        """Of gaps of shape (n,)."""
        weights, centres, deviations = self.parts(outputs)
        logarithm = torch.log(gap).unsqueeze(1)
        z = (logarithm - centres) / deviations
        return torch.logsumexp(
            weights - z.square() / 2 - deviations.log() - logarithm - math.log(2 * math.pi) / 2, dim=1
        )

    def log_survival(self, gap: Tensor, outputs: Tensor) -> Tensor:
        """Log-probability that the gap is longer."""
        weights, centres, deviations = self.parts(outputs)
        return torch.logsumexp(
            weights + torch.special.log_ndtr((centres - torch.log(gap).unsqueeze(1)) / deviations), dim=1
        )

    def mean(self, outputs: Tensor, horizon: Tensor) -> Tensor:
        """Expected gaps, shape (n,), of those up to the horizon: a wide component's tail alone would carry the mean."""
        weights, centres, deviations = self.parts(outputs)
        z = (torch.log(horizon) - centres) / deviations
        shares = torch.logsumexp(weights + torch.special.log_ndtr(z), dim=1)
        moments = weights + centres + deviations.square() / 2 + torch.special.log_ndtr(z - deviations)
        return torch.exp(torch.logsumexp(moments, dim=1) - shares)


def gap_distribution(
    name: GapName, *, shape: float | None = None, learned: bool = False, components: int = 8
) -> MomentMatched | LogNormalMixture:
    """Make a distribution by its name.

    Args:
        name: `"mixture"` is `LogNormalMixture`; the others are families of `MomentMatched`.
        shape: As there.
        learned: As there.
        components: Of the mixture.
    """
    if name == "mixture":
        return LogNormalMixture(components)
    return MomentMatched(name, shape=shape, learned=learned)
