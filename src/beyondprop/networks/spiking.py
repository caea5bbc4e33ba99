"""Networks of spiking layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from beyondprop.layers.spiking.linear import SpikingLinear


def spiking_perceptron(
    encoder: nn.Module,
    inputs: int,
    classes: int,
    readout: nn.Module,
    *,
    hidden: Sequence[int] = (350,),
    spikes: int = 1,
    output_spikes: int = 1,
    active: float = 1.0,
    expected: float = 1.0,
    **options: Any,
) -> nn.Sequential:
    """Stack an encoder, layers of spiking neurons and a readout.

    Args:
        encoder: From numbers to spike times.
        inputs: Neurons that it has.
        classes: Output neurons.
        readout: From the spike times of the output neurons to scores.
        hidden: Widths of the hidden layers.
        spikes: Most spikes of a hidden neuron.
        output_spikes: Most spikes of an output neuron.
        active: Share of the inputs that spike, for the initial weights.
        expected: Spikes of a hidden neuron, for the initial weights of the layer behind it.
        **options: Of `SpikingLinear`.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise((inputs, *hidden, classes))):
        most = output_spikes if number == len(hidden) else spikes
        layers.append(SpikingLinear(before, after, spikes=most, active=expected if number else active, **options))
    return nn.Sequential(encoder, *layers, readout)


def time_constants(tau_m: float, tau_s: float) -> dict[str, float]:
    """Options of a layer; 0 stands for an infinite tau_m, which a file of settings cannot hold."""
    return {"tau_m": tau_m or math.inf, "tau_s": tau_s}
