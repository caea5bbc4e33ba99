"""The pictures and the page of a comparative study."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from beyondprop.report.page import environment_line, head, image, settings_table, table
from beyondprop.training.curves import png

PICTURES = ("stability.png", "predictions.png", "neurons.png")
UNTRAINED = "untrained"

DOT, MEAN = "#4c72b0", "#1f2d47"
FRAMED = "Framed: one rule, two seeds. Others: two rules, one seed."


def draw_pictures(study: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw a study.

    Args:
        study: What study.json holds.

    Returns:
        PNGs by the names of `PICTURES`.
    """
    pictures = (_draw_stability(study), _draw_predictions(study), _draw_neurons(study))
    return dict(zip(PICTURES, map(png, pictures), strict=True))


def write_page(study: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Write a page that holds everything in itself: tables, pictures and what they mean.

    Args:
        study: What study.json holds.
        pictures: As `draw_pictures` gives them.
    """
    names, seeds, samples = study["recipes"], study["seeds"], study["samples"]
    same = (
        "At one seed all rules begin with the same weights and see the batches in the same order."
        if study["same_initial_weights"]
        else "At one seed the rules see the batches in the same order; they do not all begin with the same weights."
    )
    neurons = [
        f"<h3>Hidden neurons behind layer {html.escape(layer)}</h3>"
        + "".join(
            f"<h4>{title}</h4>" + _square([*names, UNTRAINED], tables[key], "{:.3f}") for key, title in NEURONS.items()
        )
        for layer, tables in study["neurons"].items()
    ]
    return PAGE.format(
        head=head("Comparative study of learning rules"),
        lead=f"{len(names)} learning rules, {len(seeds)} seeds each, on {html.escape(study['dataset'])}. {same}",
        network=html.escape(study["network"]),
        summary=_summary(study),
        stability=image(pictures, "stability.png", "Accuracy, churn, error overlap and kappa of each rule"),
        predictions=image(pictures, "predictions.png", "Tables of agreement and divergence of predictions"),
        agreement=_square(names, study["predictions"]["agreement"], "{:.1%}"),
        kl=_square(names, study["predictions"]["kl"], "{:.3g}"),
        neurons_picture=image(pictures, "neurons.png", "Tables of similarity of hidden layers"),
        neurons="".join(neurons),
        framed=FRAMED,
        images=samples["predictions"],
        shown=samples["neurons"],
        settings=settings_table(study["settings"]),
        environment=environment_line(study),
    )


# ------------------------------------------------------------------------------------------------------------ pictures

NEURONS = {"linear_cka": "Linear CKA", "matched_correlation": "Matched |correlation|"}
QUANTITIES = {
    "accuracy": "test accuracy (%)",
    "churn": "churn (%)",
    "error_overlap": "error overlap (%)",
    "kappa": "Cohen's kappa",
}


def _figures(study: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """One rule's spreads, by quantity; shares in per cent."""
    spreads = {"accuracy": study["accuracy"][name], **study["stability"][name]}
    scale = {quantity: 100 if "%" in title else 1 for quantity, title in QUANTITIES.items()}
    return {
        quantity: {
            "values": [scale[quantity] * value for value in spreads[quantity]["values"]],
            **{key: scale[quantity] * spreads[quantity][key] for key in ("mean", "std")},
        }
        for quantity in QUANTITIES
    }


def _draw_stability(study: Mapping[str, Any]) -> Figure:
    names = study["recipes"]
    figure = Figure(figsize=(11.5, 1.5 + 0.38 * len(names)), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(QUANTITIES), sharey=True)
    for axes, (quantity, title) in zip(panels, QUANTITIES.items(), strict=True):
        axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
        axes.title.set_fontsize(10)
        for row, name in enumerate(names):
            spread = _figures(study, name)[quantity]
            values = spread["values"]
            axes.plot(values, [row] * len(values), "o", color=DOT, alpha=0.55, markersize=5, markeredgewidth=0)
            axes.plot([spread["mean"]] * 2, [row - 0.28, row + 0.28], color=MEAN, linewidth=2)
        axes.set_yticks(range(len(names)), names)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure


def _draw_predictions(study: Mapping[str, Any]) -> Figure:
    names, tables = study["recipes"], study["predictions"]
    figure, (left, right) = _squares(1, len(names))
    _draw_square(left, names, tables["agreement"], title="agreement (%)", text=lambda v: f"{100 * v:.1f}")
    title = "KL(row || column), nats"
    _draw_square(right, names, tables["kl"], title=title, text=lambda v: f"{v:.2g}", colours="viridis_r")
    figure.supxlabel(FRAMED, fontsize=9)
    return figure


def _draw_neurons(study: Mapping[str, Any]) -> Figure:
    names = [*study["recipes"], UNTRAINED]
    figure, panels = _squares(len(study["neurons"]), len(names))
    chosen = [
        (f"{title}, behind layer {layer}", tables[key])
        for layer, tables in study["neurons"].items()
        for key, title in NEURONS.items()
    ]
    for axes, (title, values) in zip(panels, chosen, strict=True):
        _draw_square(axes, names, values, title=title, text=lambda v: f"{v:.2f}", limits=(0.0, 1.0))
    figure.supxlabel(FRAMED, fontsize=9)
    return figure


def _squares(rows: int, size: int) -> tuple[Figure, list[Axes]]:
    """A figure for pairs of square tables."""
    side = 1.9 + 0.5 * size
    figure = Figure(figsize=(2 * side + 0.6, rows * side + 0.8), dpi=110)
    figure.set_layout_engine("constrained", h_pad=0.12)  # titles of square tables are cut off with less
    return figure, list(figure.subplots(rows, 2, squeeze=False).flat)


def _draw_square(
    axes: Axes,
    names: Sequence[str],
    table: Sequence[Sequence[float]],
    *,
    title: str,
    text: Callable[[float], str],
    limits: tuple[float, float] | None = None,
    colours: str = "viridis",
) -> None:
    """A table in colours with its numbers, the diagonal framed."""
    values = [value for row in table for value in row]
    low, high = limits or (min(values), max(values))
    high = high if high > low else low + 1
    axes.imshow(table, cmap=colours, vmin=low, vmax=high, aspect="equal")
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            red, green, blue, _ = colormaps[colours]((value - low) / (high - low))
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            axes.text(j, i, text(value), ha="center", va="center", fontsize=8, color="black" if bright else "white")
    for n in range(len(names)):
        axes.add_patch(Rectangle((n - 0.47, n - 0.47), 0.94, 0.94, fill=False, edgecolor="#d62728", linewidth=1.4))
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8.5)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10.5)


# ---------------------------------------------------------------------------------------------------------------- page


def _square(names: Sequence[str], values: Sequence[Sequence[float]], form: str) -> str:
    rows = [[name, *(form.format(value) for value in row)] for name, row in zip(names, values, strict=True)]
    return table(["", *names], rows)


def _summary(study: Mapping[str, Any]) -> str:
    rows = []
    for name in study["recipes"]:
        spreads = _figures(study, name)
        decimals = {quantity: 1 if "%" in title else 3 for quantity, title in QUANTITIES.items()}
        rows.append([name, *(f"{s['mean']:.{decimals[q]}f} ± {s['std']:.{decimals[q]}f}" for q, s in spreads.items())])
    return table(["", *QUANTITIES.values()], rows)


PAGE = """{head}<p>{lead}</p>
<p>The questions are those of <a href="https://arxiv.org/abs/2206.06098">arXiv 2206.06098</a>, of which only the
abstract is public; rules, data, networks and measures are this library's own choice, and no figure here is the
paper's.</p>
<h2>Accuracy, and stability from seed to seed</h2>
<p>One dot is one seed (accuracy) or one pair of seeds, a line their mean; the table adds the standard deviation.
Churn: test images on which two seeds predict different classes. Error overlap: of the images on which at least one of
two seeds errs, those on which both do. Cohen's kappa: agreement beyond what chance gives. All on {images} test images.
A rule is stable where churn is low and kappa high; churn cannot fall much below the error rate unless the errors are
the same ones.</p>
{stability}
{summary}
<h2>Are the predictions of two rules alike?</h2>
<p>{framed} Agreement is the share of test images with the same predicted class; KL tells how far the column's
probabilities are from the row's, in nats. Where a rule agrees with another as often as with itself from a second seed,
the choice between the two matters no more than the seed does.</p>
{predictions}
<details><summary>As tables</summary><h4>Agreement</h4>{agreement}<h4>KL(row || column)</h4>{kl}</details>
<h2>Are their hidden neurons alike?</h2>
<p>{framed} Linear CKA compares what a whole layer represents, whatever its rotation; matched |correlation| pairs the
neurons one to one and asks how well each is found again. Both from 0 to 1, on {shown} test images. The last row and
column are the networks before training: a rule that is close to them at the same seed has moved little, and what they
have in common from seed to seed is owed to the data alone.</p>
{neurons_picture}
<details><summary>As tables</summary>{neurons}</details>
<h2>What was trained</h2>
<pre>{network}</pre>
<details><summary>Settings</summary>{settings}</details>
<p>{environment}</p>
</html>
"""
