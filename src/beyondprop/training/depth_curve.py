"""Accuracy of a network whose layers are fitted one after another, against their number, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from beyondprop.training.curves import png


def draw_by_depth(figures: Mapping[str, float | Sequence[float]], title: str) -> bytes:
    """Draw how accuracy depends on depth.

    Args:
        figures: `accuracy_by_depth` on the test split, `held_out_by_depth` where samples were held out, and `depth`.
        title: Stands above.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, label, colour in (
        ("accuracy_by_depth", "test images", "#4c72b0"),
        ("held_out_by_depth", "training images held out", "#55a868"),
    ):
        values = figures.get(name)
        if isinstance(values, Sequence):
            axes.plot(range(1, len(values) + 1), values, color=colour, label=label, lw=1.6)
    axes.axvline(float(figures["depth"]), color="#808080", lw=1, ls="--", label="depth chosen by those held out")  # type: ignore[arg-type]
    axes.set(xlabel="layers", ylabel="accuracy", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return png(figure)
