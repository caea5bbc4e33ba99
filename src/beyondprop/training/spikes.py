"""Pictures of spikes: when neurons spike, and how their potentials go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from beyondprop.layers.spiking.linear import SpikingLinear
from beyondprop.training.curves import png

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3")
MOST_TRACES = 10
MOMENTS = 1200


def draw_raster(layers: Sequence[tuple[str, Tensor]], title: str) -> bytes:
    """Draw a spike raster of one sample, layer above layer, on one axis of time.

    Args:
        layers: A name and spike times of shape (neurons, spikes), infinite where there is none, from the input on.
        title: Stands above.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(8.0, 1.0 + 1.5 * len(layers)), dpi=110, layout="constrained")
    plots = figure.subplots(len(layers), 1, sharex=True, squeeze=False)[::-1, 0]
    figure.suptitle(title, fontsize=12, fontweight="bold")
    for number, (axes, (name, times)) in enumerate(zip(plots, layers, strict=True)):
        neuron, spike = torch.isfinite(times).nonzero(as_tuple=True)
        size = max(3.0, 70.0 / len(times))  # points; a neuron's own height where there are few
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(times[neuron, spike], neuron, "|", color=colour, markersize=size, markeredgewidth=1.0)
        axes.set(ylabel="neuron", ylim=(-0.8, len(times) - 0.2))
        axes.set_title(f"{name}: {len(neuron):,} spikes of {len(times):,} neurons", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    plots[0].set_xlabel("time")
    return png(figure)


def draw_membranes(layer: SpikingLinear, times: Tensor, title: str) -> bytes:
    """Draw the potentials of a layer's neurons for one sample, with threshold and spikes.

    Args:
        layer: Of which the first ten neurons are drawn.
        times: Input spikes of one sample, shape (1, inputs, spikes).
        title: Stands above.

    Returns:
        A PNG.
    """
    times = times.detach()
    with torch.no_grad():
        own = layer(times)[0, :MOST_TRACES].cpu()
    arrivals = times[torch.isfinite(times)]
    spikes = own[torch.isfinite(own)]
    end = max([float(part.max()) for part in (arrivals, spikes) if len(part)], default=1.0) + layer.membrane.tau_s
    begin = min(0.0, float(arrivals.min()) if len(arrivals) else 0.0)
    at = torch.cat([torch.linspace(begin, end, MOMENTS), spikes, spikes - 1e-4 * (end - begin)]).sort().values
    traces = layer.potential(times, at.to(times))[0, :MOST_TRACES].cpu()
    figure = Figure(figsize=(8.0, 1.2 + 0.75 * len(traces)), dpi=110, layout="constrained")
    plots = figure.subplots(len(traces), 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=12, fontweight="bold")
    threshold = layer.membrane.threshold
    lowest = max(float(traces.min()), -3 * threshold)
    for number, (axes, trace) in enumerate(zip(plots, traces, strict=True)):
        axes.axhline(threshold, color="#a0a0a0", linewidth=0.8, linestyle="--")
        fired = own[number][torch.isfinite(own[number])]
        counted = at <= fired[-1] if len(fired) == own.shape[1] else torch.ones_like(at, dtype=torch.bool)
        axes.plot(at[counted], trace[counted], color=COLOURS[0], linewidth=1.2)  # later spikes would be left out
        axes.plot(fired, torch.full_like(fired, threshold), "v", color=COLOURS[1], markersize=4)
        axes.set(ylim=(lowest - 0.1 * threshold, 1.25 * threshold), yticks=[0, threshold])
        axes.set_yticklabels(["0", "θ"])
        axes.set_ylabel(str(number), rotation=0, labelpad=10)
        axes.spines[["top", "right"]].set_visible(False)
    plots[-1].set_xlabel("time")
    return png(figure)
