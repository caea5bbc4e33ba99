"""Curves of a training as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

LOSS, TRAIN, VALIDATION = "#4c72b0", "#dd8452", "#55a868"


def draw_accuracy_by_steps(accuracies: Mapping[int, float], title: str) -> bytes:
    """Draw how accuracy depends on the number of steps of a prediction.

    Args:
        accuracies: In 0..1, by number of steps.
        title: Stands above.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="steps of a prediction", ylabel="accuracy (%)", title=title, xscale="log")
    steps = sorted(accuracies)
    axes.plot(steps, [accuracies[n] for n in steps], color=VALIDATION, linewidth=1.8, marker="o", markersize=5)
    axes.set_xticks(steps, [f"{n:,}" for n in steps])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=""))
    return _png(figure, axes)


def draw_curves(records: Sequence[dict[str, Any]], title: str) -> bytes:
    """Draw loss and accuracy beside each other.

    Args:
        records: Those of metrics.jsonl: steps (with a loss) and epochs (with accuracies and seconds).
        title: Stands above.

    Returns:
        A PNG.
    """
    steps = [record for record in records if "seconds" not in record]
    epochs = [record for record in records if "seconds" in record]
    figure = Figure(figsize=(9.6, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    _draw_loss(left, steps)
    _draw_accuracy(right, epochs)
    return _png(figure, left, right)


def _png(figure: Figure, *plots: Axes) -> bytes:
    for axes in plots:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw_loss(axes: Axes, steps: list[dict[str, Any]]) -> None:
    x, y = [record["step"] for record in steps], [record["loss"] for record in steps]
    axes.set(xlabel="optimizer step (batch)", ylabel="training loss", title="Loss")
    if not steps:
        return
    axes.plot(x, y, color=LOSS, alpha=0.3, linewidth=0.8, label="batches")
    axes.plot(x, _smooth(y), color=LOSS, linewidth=1.8, label="smoothed")
    if min(y) > 0 and max(y) > 30 * min(y):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.legend(frameon=False)


def _draw_accuracy(axes: Axes, epochs: list[dict[str, Any]]) -> None:
    axes.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
    for name, label, colour in (
        ("train_accuracy", "training", TRAIN),
        ("validation_accuracy", "validation", VALIDATION),
    ):
        points = [(record["epoch"], record[name]) for record in epochs if name in record]
        if points:
            marker = "o" if len(points) <= 30 else None
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, marker=marker, markersize=4, label=label)
            axes.legend(frameon=False, loc="lower right")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=""))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _smooth(values: list[float]) -> list[float]:
    """Exponential moving average over about a fiftieth of the curve, forwards and backwards so that it does not lag."""
    keep = math.exp(-1 / max(1.0, len(values) / 50))

    def run(sequence: list[float]) -> list[float]:
        mean, out = sequence[0], []
        for value in sequence:
            mean = keep * mean + (1 - keep) * value
            out.append(mean)
        return out

    return run(run(values)[::-1])[::-1]
