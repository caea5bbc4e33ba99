"""Pictures of an inferred network: weights, an attractor, and how long free runs stay with the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from beyondprop.dynamics.appraisal import OWN, Appraisal
from beyondprop.dynamics.inference import NetworkInference
from beyondprop.dynamics.scores import APART, valid_steps
from beyondprop.training.curves import TRAIN, VALIDATION, png

Array = NDArray[np.floating]
GREY = "#404040"


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
    figure, (left, middle, scatter), (attractor, errors, series) = _figure(title)
    limit = max(float(np.abs(weights).max()), 1e-12)
    for axes, shown, name in ((left, weights, "true"), (middle, found, "inferred")):
        image = axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set(title=f"Weights, {name}", xlabel="from node", ylabel="to node")
    figure.colorbar(image, ax=middle, shrink=0.8)
    off = ~np.eye(len(weights), dtype=bool)
    scatter.plot([-limit, limit], [-limit, limit], color=GREY, linewidth=1.0, linestyle="--")
    scatter.plot(weights[off], found[off], ".", color=TRAIN, markersize=3, alpha=0.6)
    scatter.set(title="Each weight", xlabel="true", ylabel="inferred")
    _draw_one_node((attractor, series), truth, own, interval, "truth")
    _draw_errors(errors, truth, {"true network": true, "inferred network": own}, interval)
    return png(figure, scatter, attractor, errors, series)


def draw_inference(inference: NetworkInference, found: Appraisal, title: str) -> bytes:
    """Draw what was inferred from a series of one's own, where no true weights are known.

    The inferred weights; the probabilities of edges; each weight with its standard deviation, by its probability; one
    node's free run on the attractor and over time; and the errors of free runs, those of the closed forms beside.

    Args:
        inference: Fitted.
        found: What `appraise` made of it.
        title: Stands above.

    Returns:
        A PNG.
    """
    figure, (left, middle, scatter), (attractor, errors, series) = _figure(title)
    named = ("weights", "probability", "deviation")
    weights, probability, deviation = (getattr(inference, name).double().cpu().numpy() for name in named)
    limit = max(float(np.abs(weights).max()), 1e-12)
    for axes, shown, name, colours in (
        (left, weights, "Weights", {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}),
        (middle, probability, "Probability of an edge", {"cmap": "Blues", "vmin": 0, "vmax": 1}),
    ):
        image = axes.imshow(shown, interpolation="nearest", **colours)
        axes.set(title=name, xlabel="from node", ylabel="to node")
        figure.colorbar(image, ax=axes, shrink=0.8)
    off = ~np.eye(len(weights), dtype=bool)
    scatter.errorbar(
        *(probability[off], weights[off], deviation[off]), fmt=".", color=TRAIN, markersize=4, elinewidth=0.8, alpha=0.6
    )
    scatter.set(title="Each weight, with its deviation", xlabel="probability of an edge", ylabel="weight")
    _draw_one_node((attractor, series), found.truth, found.runs[OWN], inference.interval, "held-out series")
    best = max(found.forms, key=lambda name: found.valid_time[name])
    runs = {best.replace("_", " "): found.runs[best], "inferred network": found.runs[OWN]}
    _draw_errors(errors, found.truth, runs, inference.interval)
    return png(figure, scatter, attractor, errors, series)


def _figure(title: str) -> tuple[Figure, Any, Any]:
    """Two rows of three axes."""
    figure = Figure(figsize=(11.5, 7.2), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    above, below = figure.subplots(2, 3)
    return figure, above, below


def _draw_one_node(both: tuple[Any, Any], truth: Array, own: Array, interval: float, name: str) -> None:
    """The first node's free run from the first start, on the attractor and over time."""
    (attractor, series), last = both, truth.shape[-1] - 1
    for run, colour, label in ((truth, GREY, name), (own, TRAIN, "free run")):
        attractor.plot(run[0, :, 0, 0], run[0, :, 0, last], color=colour, linewidth=0.7, label=label)
        series.plot(interval * np.arange(run.shape[1]), run[0, :, 0, 0], color=colour, linewidth=1.0, label=label)
    attractor.set(title="One node", xlabel="component 1", ylabel=f"component {last + 1}")
    series.set(title="The same node over time", xlabel="time", ylabel="component 1")
    for axes in (attractor, series):
        axes.legend(frameon=False, fontsize=8)


def _draw_errors(errors: Any, truth: Array, runs: Mapping[str, Array], interval: float) -> None:
    """How far free runs are off over time, the inferred network's last, and how long they are valid."""
    scale = truth.std((0, 1, 2))
    for (name, run), colour in zip(runs.items(), (VALIDATION, TRAIN), strict=True):
        with np.errstate(all="ignore"):
            error = np.sqrt(np.mean(((run - truth) / scale) ** 2, axis=(2, 3)))
        middle = np.nanmedian(error, axis=0)
        middle[middle == 0] = np.nan  # the start itself, which has no place on a logarithmic axis
        errors.plot(interval * np.arange(len(middle)), middle, color=colour, linewidth=1.8, label=name)
        errors.axvline(
            interval * float(np.mean(valid_steps(run, truth, scale))), color=colour, linewidth=1.0, linestyle="--"
        )
    errors.axhline(APART, color=GREY, linewidth=1.0, linestyle=":")
    errors.set(title="Error of free runs, valid times dashed", xlabel="time", ylabel="RMS error / deviation")
    errors.set(yscale="log", ylim=(1e-4, 4))
    errors.legend(frameon=False, fontsize=8)
