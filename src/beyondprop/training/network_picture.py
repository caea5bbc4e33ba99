"""A picture of an inferred network: weights, an attractor, and how long free runs stay with the truth."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from beyondprop.dynamics.scores import APART, valid_steps
from beyondprop.training.curves import TRAIN, VALIDATION, png

Array = NDArray[np.floating]


def draw_network(
    weights: Array, found: Array, truth: Array, true: Array, own: Array, *, interval: float, title: str
) -> bytes:
    """Draw the weights, true and inferred; one node's free run on the attractor; and free runs' errors over time.

    Args:
        weights: The true ones, shape (nodes, nodes).
        found: The inferred ones, of the same shape.
        truth: What truly follows, shape (starts, time, nodes, components).
        true: Free runs of the true network from noisy starts, of the same shape.
        own: Those of the inferred one.
        interval: Between two samples.
        title: Stands above.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(11.5, 7.2), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    (left, middle, scatter), (attractor, errors, series) = figure.subplots(2, 3)
    limit = max(float(np.abs(weights).max()), 1e-12)
    for axes, shown, name in ((left, weights, "true"), (middle, found, "inferred")):
        image = axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set(title=f"Weights, {name}", xlabel="from node", ylabel="to node")
    figure.colorbar(image, ax=middle, shrink=0.8)
    off = ~np.eye(len(weights), dtype=bool)
    scatter.plot([-limit, limit], [-limit, limit], color="#404040", linewidth=1.0, linestyle="--")
    scatter.plot(weights[off], found[off], ".", color=TRAIN, markersize=3, alpha=0.6)
    scatter.set(title="Each weight", xlabel="true", ylabel="inferred")
    scale, last = truth.std((0, 1, 2)), truth.shape[-1] - 1
    for run, colour, name in ((truth, "#404040", "truth"), (own, TRAIN, "free run")):
        attractor.plot(run[0, :, 0, 0], run[0, :, 0, last], color=colour, linewidth=0.7, label=name)
        series.plot(interval * np.arange(run.shape[1]), run[0, :, 0, 0], color=colour, linewidth=1.0, label=name)
    attractor.set(title="One node", xlabel="component 1", ylabel=f"component {last + 1}")
    series.set(title="The same node over time", xlabel="time", ylabel="component 1")
    for run, colour, name in ((true, VALIDATION, "true network"), (own, TRAIN, "inferred network")):
        with np.errstate(all="ignore"):
            error = np.sqrt(np.mean(((run - truth) / scale) ** 2, axis=(2, 3)))
        times = interval * np.arange(error.shape[1])
        errors.plot(times, np.nanmedian(error, axis=0), color=colour, linewidth=1.8, label=name)
        errors.axvline(
            interval * float(np.mean(valid_steps(run, truth, scale))), color=colour, linewidth=1.0, linestyle="--"
        )
    errors.axhline(APART, color="#404040", linewidth=1.0, linestyle=":")
    errors.set(title="Error of free runs, valid times dashed", xlabel="time", ylabel="RMS error / deviation")
    errors.set(yscale="log", ylim=(1e-4, 4))
    for axes in (attractor, series, errors):
        axes.legend(frameon=False, fontsize=8)
    return png(figure, scatter, attractor, errors, series)
