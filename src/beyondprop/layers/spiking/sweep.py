"""Exact spike times of a layer, and their gradients: one sweep over the input spikes, and one back."""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from beyondprop.layers.spiking.events import Events
from beyondprop.layers.spiking.membrane import Membrane
from beyondprop.layers.spiking.tensors import Backward, Forward, couple


@dataclass(frozen=True)
class Options:
    """What a layer does beside the membrane's equation.

    Attributes:
        spikes: Most spikes of a neuron; what would come later is left out.
        least_slope: Least slope V' by which the gradient of a spike time is divided; 0 for the exact gradient.
        bump: What is taken off the gradient of all weights of a neuron that is too often silent.
        silence: The share of a batch above which a neuron's silence is too often.
    """

    spikes: int
    least_slope: float = 0.0
    bump: float = 0.0
    silence: float = 0.9


class SpikeTimes(torch.autograd.Function):
    """Spike times of a layer of leaky integrate-and-fire neurons, with the gradient of every one of them.

    With V'_k the slope at spike k of a neuron, e_k what the loss says of t_k, and κ as in `Membrane`,

        ∂t_k/∂w_j = -Σ_m κ(t_k - t_j^m) / V'_k,    ∂t_k/∂t_j^m = w_j κ'(t_k - t_j^m) / V'_k,
        ∂t_k/∂t_z = θ/tau_m e^(-(t_k - t_z)/tau_m) / V'_k  for the neuron's own spikes z < k.

    Backwards: a_k = e_k / V'_k, from the last spike of a neuron to its first, e_z += θ/tau_m Σ_{k>z} a_k e^(...).
    Then P = Σ_k a_k e^(-(t_k - t)/tau_m) and Q = Σ_k a_k κ(t_k - t) go back through time from input spike to input
    spike t_j, where dw_j -= Q and dt_j += Σ w_j (P - Q/tau_s), since κ'(d) = e^(-d/tau_m) - κ(d)/tau_s.
    """

    @staticmethod
    def forward(ctx: Any, times: Tensor, weight: Tensor, membrane: Membrane, options: Options) -> Tensor:
        """Compute them.

        Args:
            ctx: For the way back.
            times: Of the input spikes, shape (batch, inputs, spikes), infinite where there is none.
            weight: Shape (neurons, inputs).
            membrane: Of the neurons.
            options: Of the layer.

        Returns:
            Shape (batch, neurons, `options.spikes`), ascending, infinite where a neuron has no more spikes.
        """
        events = Events.of(times)
        inputs = events.places // times.shape[2]
        columns = weight.detach().t().contiguous()
        saved = find_spikes(events, inputs, columns, membrane, options.spikes)
        ctx.save_for_backward(columns, *saved)
        ctx.events, ctx.inputs, ctx.membrane, ctx.options, ctx.shape = events, inputs, membrane, options, times.shape
        found = torch.empty_like(saved[0])
        found[:, events.order] = saved[0]
        return found.permute(1, 2, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Go back through the output spikes, then through the input spikes."""
        columns, times, slopes, intervals = ctx.saved_tensors
        events, membrane, options = ctx.events, ctx.membrane, ctx.options
        ordered = errors.permute(2, 0, 1)[:, events.order]
        weight = torch.zeros_like(columns) if ctx.needs_input_grad[1] else None
        arrivals = torch.zeros_like(events.times) if ctx.needs_input_grad[0] else None
        saved = (times, slopes.clamp(min=options.least_slope), intervals)
        go_back(events, ctx.inputs, columns, membrane, saved, ordered, weight, arrivals)
        if weight is not None:
            weight = weight.t()
            if options.bump:
                silent = torch.isinf(times[0]).to(weight.dtype).mean(0)
                weight = weight - options.bump * (silent > options.silence)[:, None]
        inputs = None
        if arrivals is not None:
            batch, *rest = ctx.shape
            flat = columns.new_zeros(batch, math.prod(rest)).scatter_add_(1, events.places.t(), arrivals.t())
            inputs = torch.empty_like(flat)
            inputs[events.order] = flat
            inputs = inputs.view(ctx.shape)
        return inputs, weight, None, None


Saved = tuple[Tensor, Tensor, Tensor]


def find_spikes(events: Events, inputs: Tensor, columns: Tensor, membrane: Membrane, spikes: int) -> Saved:
    """Go forward, by the compiled sweep where there is one.

    Args:
        events: The input spikes.
        inputs: Which input each belongs to, shape (events, samples).
        columns: Weights, shape (inputs, neurons).
        membrane: Of the neurons.
        spikes: Most of a neuron.

    Returns:
        Spike times, the slopes of V there, and the number of the input spike before which each fell; all of shape
        (spikes, samples, neurons), in the order of the events' samples.
    """
    shape = spikes, len(events.order), columns.shape[1]
    if (compiled := kernels(columns)) is None:
        state = Forward(membrane, columns, events, spikes)
        state.run(inputs)
        return state.times.view(shape), state.slopes.view(shape), state.intervals.view(shape)
    times, slopes = columns.new_full(shape, math.inf), columns.new_ones(shape)
    saved = times, slopes, torch.full(shape, -1, dtype=torch.int32)
    arrays = [t.numpy() for t in (events.times, inputs, events.counts, columns)]
    compiled.forward(*arrays, _constants(membrane, compiled), *(t.numpy() for t in saved), torch.get_num_threads())
    return saved


def go_back(
    events: Events,
    inputs: Tensor,
    columns: Tensor,
    membrane: Membrane,
    saved: Saved,
    errors: Tensor,
    weight: Tensor | None,
    arrivals: Tensor | None,
) -> None:
    """Go back, by the compiled sweep where there is one.

    Args:
        events, inputs, columns, membrane: As `find_spikes`.
        saved: What that has found.
        errors: Derivatives of the loss with respect to the spike times.
        weight: Added to, of the shape of `columns`, or None.
        arrivals: Filled, shape (events, samples), or None.
    """
    if (compiled := kernels(columns)) is None:
        times, slopes, intervals = (part.flatten(1) for part in saved)
        shares = couple(errors.flatten(1), times, slopes, membrane)
        Backward(membrane, events, times, intervals, shares).run(inputs, columns, weight, arrivals)
        return
    parts = torch.get_num_threads()
    to_weight = columns.new_zeros(0, columns.shape[1]) if weight is None else weight
    to_times = columns.new_zeros(parts, *((0, 0) if arrivals is None else arrivals.shape))
    arrays = [t.numpy() for t in (events.times, inputs, events.counts, columns)]
    last = [t.numpy() for t in (*saved, errors.contiguous(), to_weight, to_times)]
    compiled.backward(*arrays, _constants(membrane, compiled), *last)
    if arrivals is not None:
        torch.sum(to_times, 0, out=arrivals)


def kernels(columns: Tensor) -> Any:
    """The compiled sweeps if they can take these weights, else None."""
    if columns.device.type != "cpu" or columns.dtype not in (torch.float32, torch.float64):
        return None
    return _compiled()


@cache
def _compiled() -> Any:
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("beyondprop.layers.spiking.compiled")


def _constants(membrane: Membrane, compiled: Any) -> tuple[float, float, float, float, int]:
    tau_m, tau_s = float(membrane.tau_m), float(membrane.tau_s)
    return tau_m, tau_s, float(membrane.threshold), membrane.difference, compiled.regime(tau_m, tau_s)
