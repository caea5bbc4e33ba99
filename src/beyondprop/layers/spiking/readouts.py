"""From spike times to class scores, and losses on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_number


class FirstSpike(nn.Module):
    """Class scores by the time to first spike: the earliest neuron wins.

        score = -min(t_first, latest) / tau

    A neuron that is silent until `latest` scores as if it spiked then. The derivative is -1/tau all the same: a layer
    with `lift` learns from it that a spike is missing, any other layer takes no notice.

    Args:
        tau: Unit of time of a score; the smaller, the sharper the softmax of the scores.
        latest: Moment from which on spikes no longer count.

    Raises:
        UserError: An argument is not above 0.

    >>> FirstSpike(0.5, latest=4.0)(torch.tensor([[[1.0, 2.0], [torch.inf, torch.inf]]]))
    tensor([[-2., -8.]])
    """

    def __init__(self, tau: float = 0.2, *, latest: float = 10.0) -> None:
        super().__init__()
        check_number(tau=tau, latest=latest, above=True)
        self.tau, self.latest = tau, latest

    def forward(self, times: Tensor) -> Tensor:
        """Return scores of shape (batch, neurons) for times of shape (batch, neurons, spikes)."""
        scores: Tensor = _First.apply(times, self.tau, self.latest)
        return scores


class _First(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, times: Tensor, tau: float, latest: float) -> Tensor:
        ctx.shape, ctx.tau = times.shape, tau
        return times[..., 0].clamp(max=latest) / -tau

    @staticmethod
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor, None, None]:
        to_times = errors.new_zeros(ctx.shape)
        to_times[..., 0] = errors / -ctx.tau
        return to_times, None, None


class SpikeCount(nn.Module):
    """Class scores by the number of spikes; of equally many, those that begin earlier score up to half a spike more.

    A count does not move with a spike's time. As the error of the count is handed to the spikes themselves in
    arXiv 2212.09500, here ∂count/∂t_k = -1/tau for every spike: neurons that spike earlier spike more often. So it is
    for the missing first spike of a silent neuron, too; see `lift` of `SpikingLinear`.

    Args:
        tau: Unit of time of that derivative, and of earliness.

    Raises:
        UserError: tau is not above 0.

    >>> SpikeCount()(torch.tensor([[[0.0, 2.0], [1.0, torch.inf]]]))
    tensor([[2.5000, 1.2500]])
    """

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        check_number(tau=tau, above=True)
        self.tau = tau

    def forward(self, times: Tensor) -> Tensor:
        """Return scores of shape (batch, neurons) for times of shape (batch, neurons, spikes)."""
        count: Tensor = _Count.apply(times, self.tau)
        first = times[..., 0].detach().clamp(min=0)
        return count + 0.5 / (1 + first / self.tau)


class _Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, times: Tensor, tau: float) -> Tensor:
        fired = torch.isfinite(times)
        ctx.save_for_backward(fired)
        ctx.tau = tau
        return fired.sum(2).to(times.dtype)

    @staticmethod
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor, None]:
        (fired,) = ctx.saved_tensors
        asked = fired.clone()
        asked[..., 0] = True
        return asked * (errors[..., None] / -ctx.tau), None


class FirstSpikeLoss(nn.Module):
    """Cross-entropy of the scores of `FirstSpike`, and a pull on the right neuron to be early.

        L = -log softmax(score)_y - early · score_y,    mean over the batch

    Args:
        early: Strength of the pull; 0 for none.

    Raises:
        UserError: early is negative.

    >>> float(FirstSpikeLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])))
    0.693...
    """

    def __init__(self, early: float = 0.0) -> None:
        super().__init__()
        check_number(early=early)
        self.early = early

    def forward(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the loss for scores of shape (batch, classes) and class indices."""
        loss = F.cross_entropy(scores, y)
        return loss - self.early * scores.gather(1, y[:, None]).mean() if self.early else loss


class SpikeCountLoss(nn.Module):
    """Squared distance of the spike counts of `SpikeCount` from what they are to be.

        L = 1/2 Σ_n (count_n - target_n)²,    mean over the batch

    Args:
        true: Spikes that the neuron of the class is to have.
        false: Spikes that the others are to have.

    Raises:
        UserError: A number is negative.

    >>> float(SpikeCountLoss(2, 0)(torch.tensor([[2.5, 1.25]]), torch.tensor([0])))
    0.5
    """

    def __init__(self, true: float = 15.0, false: float = 3.0) -> None:
        super().__init__()
        check_number(true=true, false=false)
        self.true, self.false = true, false

    def forward(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the loss for scores of shape (batch, classes) and class indices."""
        target = torch.full_like(scores, self.false).scatter_(1, y[:, None], self.true)
        earliness = (scores - scores.floor()).detach()
        return 0.5 * (scores - earliness - target).square().sum(1).mean()
