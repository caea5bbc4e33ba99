"""Spiking networks of other libraries, by surrogate gradients, and the exact package whose gradients are compared."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.layers.spiking.membrane import Membrane

MODULES = {"snntorch": "snntorch", "norse": "norse", "spikingjelly": "spikingjelly", "exactsnn": "exact_snn"}


class SnnTorch(nn.Module):
    """snnTorch: leaky neurons, a loop over steps."""

    def __init__(self, hidden: int, steps: int) -> None:
        super().__init__()
        neurons = importlib.import_module("snntorch")
        self.steps = steps
        self.first, self.second = nn.Linear(784, hidden), nn.Linear(hidden, 10)
        self.hidden, self.output = neurons.Leaky(beta=0.9), neurons.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Return summed output spikes."""
        states, total = (self.hidden.init_leaky(), self.output.init_leaky()), 0
        current = self.first(x)  # the input is constant: every step has the same
        for _ in range(self.steps):
            spikes, one = self.hidden(current, states[0])
            spikes, two = self.output(self.second(spikes), states[1])
            states, total = (one, two), total + spikes
        return total


class Norse(nn.Module):
    """Norse: leaky neurons with currents, a loop over steps."""

    def __init__(self, hidden: int, steps: int) -> None:
        super().__init__()
        neurons = importlib.import_module("norse.torch")
        self.steps = steps
        self.first, self.second = nn.Linear(784, hidden), nn.Linear(hidden, 10)
        self.hidden, self.output = neurons.LIFCell(), neurons.LIFCell()

    def forward(self, x: Tensor) -> Tensor:
        """Return summed output spikes."""
        one = two = None
        total, current = 0, self.first(x)
        for _ in range(self.steps):
            spikes, one = self.hidden(current, one)
            spikes, two = self.output(self.second(spikes), two)
            total = total + spikes
        return total


class SpikingJelly(nn.Module):
    """SpikingJelly: leaky neurons, all steps of a layer in one call."""

    def __init__(self, hidden: int, steps: int) -> None:
        super().__init__()
        neurons = importlib.import_module("spikingjelly.activation_based.neuron")
        self.functional = importlib.import_module("spikingjelly.activation_based.functional")
        self.steps = steps
        self.first, self.second = nn.Linear(784, hidden), nn.Linear(hidden, 10)
        self.hidden, self.output = neurons.LIFNode(step_mode="m"), neurons.LIFNode(step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        """Return summed output spikes."""
        self.functional.reset_net(self)
        current = self.first(x).expand(self.steps, -1, -1)
        return self.output(self.second(self.hidden(current))).sum(0)


NETWORKS: dict[str, Any] = {"snntorch": SnnTorch, "norse": Norse, "spikingjelly": SpikingJelly}


def exact_error(
    times: Tensor,
    weight: Tensor,
    membrane: Membrane,
    spikes: int,
    error: Callable[[Callable[[Tensor], Tensor], Tensor], float],
) -> float:
    """The error of exact-snn-nn's gradient of the sum of the first spikes, by its own finite differences.

    Args:
        times: Input spikes, shape (1, inputs).
        weight: Shape (1, inputs).
        membrane: Time constants and threshold.
        spikes: How many count.
        error: Of the gradient of a function of the weights.
    """
    package = importlib.import_module("exact_snn.extended")
    layer = package.ExactMultiSpike(
        times.shape[1],
        1,
        tm=membrane.tau_m,
        ts=membrane.tau_s,
        theta=membrane.threshold,
        t_max=10 * membrane.tau_s,
        bias_val=0.0,
        grid_pts=16_001,
        max_spikes=spikes,
        dtype=times.dtype,
    )
    bias = torch.zeros(1, 1, dtype=times.dtype)

    def total(free: Tensor) -> Tensor:
        found = torch.func.functional_call(layer, {"weight": torch.cat([free, bias], dim=1)}, (times.T.contiguous(),))
        return found.where(found.isfinite() & (found < layer.t_max), 0.0).sum()

    value = error(total, weight)
    return value if math.isfinite(value) else math.inf
