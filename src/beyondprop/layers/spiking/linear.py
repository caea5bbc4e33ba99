"""A layer of spiking neurons."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.layers.spiking.membrane import Membrane
from beyondprop.layers.spiking.sweep import Options, SpikeTimes


class SpikingLinear(nn.Module):
    """Leaky integrate-and-fire neurons that spike several times, as in arXiv 2211.16113, by exact spike timing.

        V(t) = Σ_j w_j Σ_m κ(t - t_j^m) - θ Σ_z e^(-(t - t_z)/tau_m),    a spike wherever V reaches θ

    with κ of `beyondprop.layers.spiking.membrane.Membrane`; gradients are those of `SpikeTimes`: of every spike time,
    exact, through the neuron's own resets too. Nothing is discretised in time, and memory does not grow with it.

    The initial weights are normal. With n inputs that are expected to spike (`active` of all), their mean is
    `drive` θ / (n max κ) and their deviation `spread` θ / (√n max κ): all n spikes at once would lift V to about
    `drive` times the threshold.

    Args:
        inputs: Neurons before.
        neurons: Neurons.
        spikes: Most spikes of a neuron; later ones are left out. 1 is time to first spike.
        tau_m: Time constant of the membrane, in the unit of all times; `math.inf` for no leak.
        tau_s: Time constant of the current, in the same unit. tau_m = 2 tau_s has the cheapest closed form.
        threshold: θ.
        least_slope: Where V reaches the threshold almost flat the gradient explodes; it is divided by a slope of at
            least this, in thresholds per tau_s. 0 keeps the exact gradient.
        lift: A silent neuron has no spike time to learn by. Where the loss asks for an earlier first spike (which
            `FirstSpike` and `SpikeCount` do of silent output neurons too), ∂t/∂w_j is taken to be -lift for every spike
            of input j. 0 leaves silent neurons alone.
        bump: The same for neurons that are silent in more than `silence` of the batch, which the loss does not see.
        silence: Share of the batch, see `bump`.
        drive: Of the initial weights.
        spread: Of the initial weights.
        active: Share of the inputs that are expected to spike, for the initial weights.

    Raises:
        UserError: An argument is out of range; in `forward`, the input is no tensor of spike times of `inputs` neurons.

    >>> layer = SpikingLinear(3, 2, spikes=4)
    >>> with torch.no_grad():
    ...     _ = layer.weight.fill_(1.0)
    >>> times = layer(torch.tensor([[0.1, 0.2, math.inf]]))  # one sample; the third neuron is silent
    >>> times.shape, torch.isfinite(times).sum(2).tolist()
    (torch.Size([1, 2, 4]), [[0, 0]])
    """

    def __init__(
        self,
        inputs: int,
        neurons: int,
        *,
        spikes: int = 1,
        tau_m: float = 2.0,
        tau_s: float = 1.0,
        threshold: float = 1.0,
        least_slope: float = 0.0,
        lift: float = 0.0,
        bump: float = 0.0,
        silence: float = 0.9,
        drive: float = 2.0,
        spread: float = 1.0,
        active: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole(1, inputs=inputs, neurons=neurons, spikes=spikes)
        check_number(least_slope=least_slope, lift=lift, bump=bump, silence=silence, spread=spread)
        check_number(active=active, above=True)
        if silence > 1:
            raise UserError(f"silence is a share of the batch, at most 1, got {silence}")
        self.membrane = Membrane(tau_m, tau_s, threshold)
        self.options = Options(spikes, least_slope * threshold / tau_s, lift, bump, silence)
        expected = max(1.0, active * inputs)
        unit = threshold / self.membrane.peak()
        weight = torch.randn(neurons, inputs) * (spread / math.sqrt(expected)) + drive / expected
        self.weight = nn.Parameter(weight * unit)

    def forward(self, times: Tensor) -> Tensor:
        """Compute spike times.

        Args:
            times: Of the neurons before, shape (batch, inputs) or (batch, inputs, spikes), in any order; infinite where
                there is no spike.

        Returns:
            Shape (batch, neurons, spikes), ascending, infinite where there is no spike. A sample with NaN gives NaN.

        Raises:
            UserError: Times have another shape or are no floating-point numbers, or weights are narrower than float32.
        """
        given = times[..., None] if times.ndim == 2 else times
        if given.ndim != 3 or given.shape[1] != self.weight.shape[1] or not given.is_floating_point():
            raise UserError(
                f"a spiking layer of {self.weight.shape[1]} inputs takes spike times of shape (batch, "
                f"{self.weight.shape[1]}, spikes), got {times.dtype} of shape {tuple(times.shape)} (an encoder with a "
                "bias makes one input more than there are features)"
            )
        if self.weight.dtype not in {torch.float32, torch.float64}:
            raise UserError(
                f"spike times are too coarse in {self.weight.dtype}: keep spiking layers in float32 or float64"
            )
        found: Tensor = SpikeTimes.apply(given.to(self.weight.dtype), self.weight, self.membrane, self.options)
        lost = ~self.weight.detach().sum().isfinite()
        if not bool(lost | given.sum().isnan()):  # a sum costs a tenth of a look at each
            return found
        bad = lost | given.isnan().flatten(1).any(1)
        return found.masked_fill(bad[:, None, None], math.nan)

    def extra_repr(self) -> str:
        """What `print` tells of it."""
        membrane = self.membrane
        return (
            f"{self.weight.shape[1]}, {self.weight.shape[0]}, spikes={self.options.spikes}, tau_m={membrane.tau_m}, "
            f"tau_s={membrane.tau_s}, threshold={membrane.threshold}"
        )

    def potential(self, times: Tensor, at: Tensor) -> Tensor:
        """The neurons' potentials at given moments, by the sum over all spikes; for pictures.

        Args:
            times: As `forward` takes them.
            at: Moments, shape (moments,).

        Returns:
            Shape (batch, neurons, moments). Right at a spike it is the value after it.
        """
        given = times[..., None] if times.ndim == 2 else times
        with torch.no_grad():
            own = self(times)
            passed = (at[:, None] - given.flatten(1)[:, None]).clamp(min=0)  # batch, moments, events
            drive = torch.where(passed > 0, self.membrane.kernel(passed), 0.0).unflatten(2, given.shape[1:]).sum(3)
            since = at[:, None] - own[:, :, None]
            resets = torch.where(since >= 0, self.membrane.leak(since.clamp(min=0)), 0.0).sum(3)
            return torch.einsum("bti,ni->bnt", drive, self.weight) - self.membrane.threshold * resets
