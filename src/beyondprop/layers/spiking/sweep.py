"""Exact spike times of a layer, and their gradients: one sweep over the input spikes, and one back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from beyondprop.compiled import by_threads, compiled
from beyondprop.layers.spiking.events import Events
from beyondprop.layers.spiking.membrane import Membrane
from beyondprop.layers.spiking.tensors import Backward, Forward, couple


@dataclass(frozen=True)
class Options:
    """What a layer does beside the membrane's equation.

    Attributes:
        spikes: Most spikes of a neuron; what would come later is left out.
        least_slope: Least slope V' by which the gradient of a spike time is divided; 0 for the exact gradient.
        lift: How much earlier (-∂t/∂w) a silent neuron is taken to spike with a larger weight of an input spike, where
            the loss asks for an earlier first spike.
        bump: The same for neurons that are too often silent, as if the loss were the mean of their first spikes.
        silence: The share of a batch above which a neuron's silence is too often.
    """

    spikes: int
    least_slope: float = 0.0
    lift: float = 0.0
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
        events = Events.of(times, membrane)
        columns = weight.detach().t().contiguous()
        saved = find_spikes(events, times.shape[2], columns, membrane, options.spikes)
        ctx.save_for_backward(columns, *saved)
        ctx.events, ctx.membrane, ctx.options, ctx.shape = events, membrane, options, times.shape
        if options.lift or options.bump:
            ctx.input_spikes = torch.isfinite(times).sum(2).to(weight.dtype)
        return saved[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Go back through the output spikes, then through the input spikes."""
        columns, times, slopes, intervals = ctx.saved_tensors
        options = ctx.options
        weight = torch.zeros_like(columns) if ctx.needs_input_grad[1] else None
        batch, features, each = ctx.shape
        inputs = columns.new_zeros(batch, features * each) if ctx.needs_input_grad[0] else None
        saved = (times, slopes.clamp(min=options.least_slope) if options.least_slope else slopes, intervals)
        go_back(ctx.events, each, columns, ctx.membrane, saved=saved, errors=errors, weight=weight, inputs=inputs)
        if weight is not None:
            weight = weight.t()
            if options.lift or options.bump:
                pull = silent_pull(errors[..., 0], torch.isinf(times[..., 0]), options)
                weight = weight - pull.t() @ ctx.input_spikes
        return None if inputs is None else inputs.view(ctx.shape), weight, None, None


def silent_pull(errors: Tensor, silent: Tensor, options: Options) -> Tensor:
    """Compute by how much the gradient of a silent neuron's weights is lowered for every input spike.

    Args:
        errors: Derivatives of the loss with respect to first spikes, shape (samples, neurons).
        silent: Which there are none of, of the same shape.
        options: `lift`, `bump` and `silence`.
    """
    often = silent.to(errors.dtype).mean(0) > options.silence
    pull = options.lift * errors.clamp(min=0) + options.bump / max(1, len(errors)) * often
    return torch.where(silent, pull, 0.0)


Saved = tuple[Tensor, Tensor, Tensor]


def find_spikes(events: Events, each: int, columns: Tensor, membrane: Membrane, spikes: int) -> Saved:
    """Go forward, by the compiled sweep where there is one.

    Args:
        events: The input spikes.
        each: Places for spikes that every input has.
        columns: Weights, shape (inputs, neurons).
        membrane: Of the neurons.
        spikes: Most of a neuron.

    Returns:
        Spike times, the slopes of V there, and the number of the input spike before which each fell; all of shape
        (samples, neurons, spikes).
    """
    samples, neurons = len(events.counts), columns.shape[1]
    if (sweeps := kernels(columns)) is None:
        by_number = events.by_number
        state = Forward(membrane, columns, by_number, spikes)
        state.run(by_number.places // each)
        back = by_number.order.argsort()
        found = (part.view(spikes, samples, neurons) for part in (state.times, state.slopes, state.intervals))
        times, slopes, intervals = (part[:, back].permute(1, 2, 0).contiguous() for part in found)
        return times, slopes, intervals
    shape = samples, neurons, spikes
    times, slopes = columns.new_full(shape, math.inf), columns.new_ones(shape)
    saved = times, slopes, torch.full(shape, -1, dtype=torch.int32)
    arrays = [*_arrays(events, each, columns, membrane, sweeps), *(t.numpy() for t in saved)]
    by_threads(lambda _part, low, high: sweeps.forward(*arrays, low, high), neurons)
    return saved


def go_back(
    events: Events,
    each: int,
    columns: Tensor,
    membrane: Membrane,
    *,
    saved: Saved,
    errors: Tensor,
    weight: Tensor | None,
    inputs: Tensor | None,
) -> None:
    """Go back, by the compiled sweep where there is one.

    Args:
        events: As `find_spikes`.
        each: As `find_spikes`.
        columns: As `find_spikes`.
        membrane: As `find_spikes`.
        saved: What that has found.
        errors: Derivatives of the loss with respect to the spike times, of their shape.
        weight: Added to, of the shape of `columns`, or None.
        inputs: Added to, shape (samples, inputs · each), or None.
    """
    if not len(events.counts):  # an empty batch
        return
    if (sweeps := kernels(columns)) is None:
        by_number = events.by_number
        parts = (part[by_number.order].permute(2, 0, 1).flatten(1) for part in (*saved, errors))
        times, slopes, intervals, errors = parts
        back = Backward(membrane, by_number, times, intervals, couple(errors, times, slopes, membrane))
        arrivals = None if inputs is None else torch.zeros_like(by_number.times)
        back.run(by_number.places // each, columns, weight, arrivals)
        if inputs is not None and arrivals is not None:
            by_sample = arrivals[:, by_number.order.argsort()].t()
            inputs.scatter_add_(1, events.places, by_sample)
        return
    to_weight = columns.new_zeros(0, columns.shape[1]) if weight is None else weight
    to_times = columns.new_zeros(torch.get_num_threads(), *((0, 0) if inputs is None else inputs.shape))
    arrays = _arrays(events, each, columns, membrane, sweeps)
    arrays += [t.numpy() for t in (*saved, errors.contiguous(), to_weight)]
    each_part = [t.numpy() for t in to_times]
    by_threads(lambda part, low, high: sweeps.backward(*arrays, each_part[part], low, high), columns.shape[1])
    if inputs is not None:
        torch.sum(to_times, 0, out=inputs)


def kernels(columns: Tensor) -> Any:
    """The compiled sweeps if they can take these weights, else None."""
    if columns.device.type != "cpu" or columns.dtype not in (torch.float32, torch.float64):
        return None
    return compiled("beyondprop.layers.spiking.compiled")


def _arrays(events: Events, each: int, columns: Tensor, membrane: Membrane, compiled: Any) -> list[Any]:
    """What both compiled sweeps take first."""
    tau_m, tau_s = float(membrane.tau_m), float(membrane.tau_s)
    constants = tau_m, tau_s, float(membrane.threshold), membrane.difference, compiled.regime(tau_m, tau_s)
    arrays = (t.numpy() for t in (events.times, events.places, events.counts, events.decays, columns))
    return [*arrays, each, constants]
