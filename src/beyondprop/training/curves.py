"""Curves of a training as a picture."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

LOSSES = {"loss": "training loss", "feedback_loss": "loss of the feedback"}
LOSS, TRAIN, VALIDATION = "#4c72b0", "#dd8452", "#55a868"
# By the name of the records: what is drawn, and the figure below the angles with its name.
COMPARISONS = {
    "alignment": ("Each layer's update beside back-propagation's gradient", "norm_ratio", "norm ratio"),
    "gauss_newton": ("Each layer's update beside the Gauss-Newton update", "null_space", "share that moves no output"),
}
MOST_ROWS = 240  # of a forecast that are drawn apart
MOST_NAMES = 16  # in a legend


def draw_accuracy_by_steps(accuracies: Mapping[int, float], count: int, title: str) -> bytes:
    """Draw how accuracy depends on the number of steps of a prediction, with bars of two standard errors.

    Args:
        accuracies: In 0..1, by number of steps.
        count: Images that they were measured on.
        title: Stands above, with the number of images.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="steps of a prediction", ylabel="accuracy (%)", xscale="log")
    axes.set_title(f"{title}\n{count:,} samples, bars of two standard errors", fontsize=11)
    steps = sorted(accuracies)
    heights = [accuracies[n] for n in steps]
    bars = [_within(height, count) for height in heights]
    lengths = [[height - low for height, (low, _) in zip(heights, bars, strict=True)]]
    lengths += [[high - height for height, (_, high) in zip(heights, bars, strict=True)]]
    axes.errorbar(steps, heights, lengths, color=VALIDATION, linewidth=1.8, marker="o", markersize=5, elinewidth=1.0)
    axes.set_xticks(steps, [f"{n:,}" for n in steps])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=""))
    return png(figure, axes)


def draw_curves(records: Sequence[dict[str, Any]], title: str) -> bytes:
    """Draw losses and accuracy, or of a regression the held-out samples' loss, beside each other.

    Args:
        records: Those of metrics.jsonl: steps (with losses) and epochs (with accuracies and seconds).
        title: Stands above.

    Returns:
        A PNG.
    """
    steps = [record for record in records if "seconds" not in record]
    losses = [name for name in LOSSES if any(name in record for record in steps)] or ["loss"]
    epochs = [record for record in records if "seconds" in record]
    names = {name for record in epochs for name in record}
    classified = not epochs or any(name.endswith("_accuracy") for name in names)
    count = len(losses) + (classified or "validation_loss" in names)
    figure = Figure(figsize=(3.2 + 3.2 * count, 3.8), dpi=110, layout="constrained")
    plots = figure.subplots(1, count, squeeze=False)[0]
    figure.suptitle(title, fontsize=12, fontweight="bold")
    for axes, name in zip(plots, losses, strict=False):
        _draw_loss(axes, [record for record in steps if name in record], name)
    if classified:
        _draw_accuracy(plots[-1], epochs)
    elif "validation_loss" in names:
        _draw_held_out_loss(plots[-1], epochs)
    return png(figure, *plots)


def draw_forecast(targets: Sequence[float], predictions: Sequence[float], row: int, name: str) -> bytes:
    """Draw a column of a file and its forecast, in its own units, row by row.

    Args:
        targets: What stands in the file.
        predictions: As many.
        row: Of the first.
        name: Of the column.

    Returns:
        A PNG: all rows above; below, where they are many, the last ones alone.
    """
    close = min(len(targets), MOST_ROWS)
    parts = [0] if close == len(targets) else [0, len(targets) - close]
    figure = Figure(figsize=(9.6, 2.2 + 1.9 * len(parts)), dpi=110, layout="constrained")
    plots = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
    figure.suptitle(f"{name}: test rows and their forecast", fontsize=12, fontweight="bold")
    for axes, begin in zip(plots, parts, strict=True):
        rows = range(row + begin, row + len(targets))
        width = 1.6 if len(rows) <= MOST_ROWS else 0.8
        axes.plot(rows, targets[begin:], color="#404040", linewidth=width, label="the file")
        axes.plot(rows, predictions[begin:], color=TRAIN, linewidth=width, label="forecast")
        axes.set(ylabel=name, title="" if len(parts) == 1 else f"the last {len(rows)} rows" if begin else "all rows")
        axes.margins(x=0.01)
    figure.legend(*plots[0].get_legend_handles_labels(), frameon=False, ncols=2, loc="outside lower center")
    plots[-1].set_xlabel("row of the file")
    return png(figure, *plots)


def draw_course(
    steps: Sequence[int], costs: Mapping[str, Sequence[float]], answers: Mapping[str, Sequence[float]], title: str
) -> bytes:
    """Draw costs over a training beside what one replica answered to each pattern.

    Args:
        steps: Presentations before each point.
        costs: By name, as shares of the squared target.
        answers: By pattern, as shares of the target.
        title: Stands above.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    for number, (name, values) in enumerate(costs.items()):
        left.plot(steps, values, color=colormaps["viridis"](0.9 * number / max(1, len(costs) - 1)), label=name)
    left.set(yscale="log", ylabel="median of cost / |target|²", title="Cost by intensity")
    for number, (name, values) in enumerate(answers.items()):
        right.plot(steps, values, color=colormaps["tab10"](number), label=name)
    for level in (-1, 1):
        right.axhline(level, color="#404040", linewidth=1.0, linestyle="--")
    right.set(ylabel="output / target", title="Answers of the best replica")
    for axes in (left, right):
        axes.set(xlabel="presentations")
        axes.legend(frameon=False, ncols=2, fontsize=9)
    return png(figure, left, right)


def draw_settling(
    names: Sequence[str], free: Sequence[Sequence[float]], nudged: Sequence[Sequence[float]], title: str
) -> bytes:
    """Draw how far each state of a settling network still moves, step by step, without and with a nudge.

    Args:
        names: Of the states.
        free: For each step of the free phase, the residual of each state.
        nudged: The same of the nudged phase; may be empty.
        title: Stands above.

    Returns:
        A PNG.
    """
    parts = [("free phase", free)] + ([("nudged phase", nudged)] if nudged else [])
    figure = Figure(figsize=(4.8 * len(parts) + 1.6, 3.8), dpi=110, layout="constrained")
    plots = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    figure.suptitle(title, fontsize=12, fontweight="bold")
    for axes, (heading, residuals) in zip(plots, parts, strict=True):
        axes.set(xlabel="step", title=heading, yscale="log")
        steps = range(1, len(residuals) + 1)
        for number, name in enumerate(names):
            heights = [found[number] or math.nan for found in residuals]  # a state that stands still has no logarithm
            colour = colormaps["viridis"](0.9 * number / max(1, len(names) - 1))
            marker = "o" if len(residuals) <= 30 else None
            axes.plot(steps, heights, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    plots[0].set_ylabel("root mean square of a step")
    figure.legend(*plots[0].get_legend_handles_labels(), frameon=False, title="state", loc="outside right upper")
    return png(figure, *plots)


def draw_comparison(kind: str, records: Sequence[dict[str, Any]], title: str) -> bytes:
    """Draw each layer's angle to another update over the steps, and another figure below it.

    Args:
        kind: One of `COMPARISONS`.
        records: Those of metrics.jsonl; the ones with `kind` are drawn.
        title: Stands above.

    Returns:
        A PNG.
    """
    measured = [(record["step"], record[kind]) for record in records if kind in record]
    heading, below, told = COMPARISONS[kind]
    layers = list(dict.fromkeys(name for _, found in measured for name in found))
    # By depth, dark to bright; the last tenth of the map is too pale to read.
    colours = [colormaps["viridis"](0.9 * number / max(1, len(layers) - 1)) for number in range(len(layers))]
    figure = Figure(figsize=(9.6, 6.0), dpi=110, layout="constrained")
    angles, ratios = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(title, fontsize=12, fontweight="bold")
    angles.set(ylabel="angle (degrees)", title=heading)
    ratios.set(ylabel=told, xlabel="optimizer step (batch)")
    values: dict[str, list[float]] = {}
    for axes, quantity, level in ((angles, "angle", 90), (ratios, below, 1)):
        values[quantity] = [level]
        axes.axhline(level, color="#404040", linewidth=1.0, linestyle="--")
        for layer, colour in zip(layers, colours, strict=True):
            points = [(step, found[layer][quantity]) for step, found in measured if layer in found]
            points = [(step, value) for step, value in points if value is not None]
            few = len(layers) <= MOST_NAMES
            marker, width = ("o" if few and len(points) <= 30 else None), (1.6 if few else 0.7)
            steps, height = [step for step, _ in points], [value for _, value in points]
            axes.plot(steps, height, color=colour, linewidth=width, marker=marker, markersize=3.5)
            values[quantity] += [value for _, value in points]
    highest = 180 if max(values["angle"]) > 100 else 90
    angles.set(ylim=(-4, highest + 8), yticks=range(0, highest + 1, 30))
    positive = [value for value in values[below] if value > 0]
    if below == "null_space":
        ratios.set(ylim=(-0.04, 1.04))
    elif max(positive) > 30 * min(positive):
        ratios.set_yscale("log")
        ratios.yaxis.set_major_formatter("{x:g}")
    else:
        ratios.set_ylim(bottom=0)
    ratios.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    handles = [Line2D([], [], color=colour, label=layer) for layer, colour in zip(layers, colours, strict=True)]
    if len(handles) > MOST_NAMES:  # the first, the last and some between
        handles = [handles[round(n * (len(handles) - 1) / (MOST_NAMES - 1))] for n in range(MOST_NAMES)]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", frameon=False, title="layer")
    return png(figure, angles, ratios)


def _within(accuracy: float, count: int) -> tuple[float, float]:
    """Two standard errors below and above (Agresti and Coull 1998, whose bars do not vanish where all are right)."""
    middle = (accuracy * count + 2) / (count + 4)
    half = 2 * math.sqrt(middle * (1 - middle) / (count + 4))
    return min(accuracy, max(0.0, middle - half)), max(accuracy, min(1.0, middle + half))


def png(figure: Figure, *plots: Axes) -> bytes:
    """Write a figure as a PNG, its plots with a grid and two of their four sides."""
    for axes in plots:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw_loss(axes: Axes, steps: list[dict[str, Any]], name: str) -> None:
    x, y = [record["step"] for record in steps], [record[name] for record in steps]
    axes.set(xlabel="optimizer step (batch)", ylabel=LOSSES[name], title=name.replace("_", " ").capitalize())
    if not steps:
        return
    axes.plot(x, y, color=LOSS, alpha=0.3, linewidth=0.8, label="batches")
    # What one stage's loss was says nothing of the next one's.
    stages = [list(part) for _, part in itertools.groupby(steps, lambda record: record.get("stage"))]
    for number, part in enumerate(stages):
        found = [record[name] for record in part]
        label = "smoothed" if number == 0 else None
        axes.plot([r["step"] for r in part], _smooth(found), color=LOSS, linewidth=1.8, label=label)
        if number > 0:
            axes.axvline(
                part[0]["step"], color="0.6", linewidth=0.8, linestyle="--", label="next stage" if number == 1 else None
            )
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


def _draw_held_out_loss(axes: Axes, epochs: list[dict[str, Any]]) -> None:
    axes.set(xlabel="epoch", ylabel="loss", title="Loss of held-out samples")
    losses = [(record["epoch"], record["validation_loss"]) for record in epochs if "validation_loss" in record]
    axes.plot(*zip(*losses, strict=True), color=VALIDATION, linewidth=1.8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _smooth(values: list[float]) -> list[float]:
    """Exponential moving average over about a fiftieth of the curve, forwards and backwards so that it does not lag."""
    keep = math.exp(-1 / max(1.0, len(values) / 50))

    def run(sequence: list[float]) -> list[float]:
        total, weight, out = 0.0, 0.0, []
        for value in sequence:  # weighted by what was seen so far: the first value counts like the others
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
            out.append(total / weight)
        return out

    return run(run(values)[::-1])[::-1]
