"""Makes text, table and picture of accuracy against the membrane's time constant from `spike_time_constant.json`.

    python benchmarks/spiking_report.py tables pictures

`make tables` and `make pictures` call this. What the text says of an optimum follows from the rows alone. The picture
carries a digest of the figures drawn in it, so that a test can tell when it is out of date.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from _report import write_asked
from beyondprop.report.markdown import markdown_table
from signals_report import RESULTS, ROOT

PAGE = ROOT / "docs" / "rules" / "spike_timing.md"
PICTURE = "spike-time-constant.svg"
CASE = re.compile(r"(\S+), up to (\d+) spikes, tau_m (\S+), (\S+) images, (\d+) epochs, batch (\d+)(.*), seed (\d+)")
NOT_MEASURED = "It is not measured yet; `python benchmarks/spike_time_constant.py` does it."
COLOURS = ("#4c72b0", "#dd8452")


@dataclass
class Curve:
    """One side, several spikes or one, by time constants in ascending order: a number for each seed.

    Attributes:
        name: Of the side.
        accuracy: Shares of held-out images.
        spikes: Of hidden neurons for an image.
    """

    name: str
    accuracy: dict[float, list[float]] = field(default_factory=dict)
    spikes: dict[float, list[float]] = field(default_factory=dict)


def curves(results: Path = RESULTS) -> tuple[list[Curve], str]:
    """Several spikes, then one; and how they were trained. Nothing where nothing is measured.

    Raises:
        ValueError: The file holds trainings of several kinds, or seeds that not all time constants have.
    """
    path = results / "spike_time_constant.json"
    rows = json.loads(path.read_bytes())["rows"] if path.exists() else []
    kinds, sides, seeds = set(), (Curve(""), Curve("one spike")), set()
    for row in rows:
        case = CASE.fullmatch(row["case"])
        if case is None:
            raise ValueError(f"{path}: {row['case']!r} is no training of spike_time_constant.py")
        recipe, most, tau, images, epochs, batch, other, seed = case.groups()
        kinds.add((recipe, most, images, epochs, batch, other))
        seeds.add(seed)
        sides[0].name = f"up to {most} spikes"
        for side, value in zip(sides, (row["ours"], row["peer_value"]), strict=True):
            found = side.accuracy if row["metric"] == "validation_accuracy" else side.spikes
            found.setdefault(math.inf if tau == "infinite" else float(tau), []).append(value)
    if len(kinds) > 1:
        raise ValueError(f"{path} holds trainings of several kinds: measure --again")
    if not kinds:
        return [], ""
    for side in sides:
        side.accuracy, side.spikes = dict(sorted(side.accuracy.items())), dict(sorted(side.spikes.items()))
        if any(len(values) != len(seeds) for values in (*side.accuracy.values(), *side.spikes.values())):
            raise ValueError(f"{path} lacks seeds of some time constants: measure the rest")
    recipe, _, images, epochs, batch, other = kinds.pop()
    images = f"{int(images):,} of the training images" if images.isdigit() else "the training images"
    about = (
        f"`{recipe}` on {images}, {epochs} epoch{'s' * (epochs != '1')} in batches of {batch}{other}, {len(seeds)} "
        f"seed{'s' * (len(seeds) > 1)}, measured on images held out of training."
    )
    return list(sides), about


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Make the text, by the name that its markers carry."""
    sides, about = curves(results)
    if not sides:
        return {"spike-time-constant": NOT_MEASURED}
    heads = [r"$\tau_m$", *(f"{side.name.capitalize()}, {what}" for side in sides for what in ("%", "hidden spikes"))]
    cells = []
    for tau in sides[0].accuracy:
        figures = [(percent(side.accuracy[tau]), f"{statistics.mean(side.spikes[tau]):,.0f}") for side in sides]
        cells.append((f"${symbol(tau)}$", *(cell for pair in figures for cell in pair)))
    picture = f"![Held-out accuracy and hidden spikes against the time constant](../pictures/{PICTURE})"
    text = " ".join([about, *(told(side) for side in sides)])
    return {"spike-time-constant": f"{text}\n\n{picture}\n\n{markdown_table(heads, cells, left=heads[:1])}"}


def told(side: Curve) -> str:
    """What can be said of an optimum: it lies between the ends, ahead of both in every seed, or there is none."""
    best, ends = best_of(side), (min(side.accuracy), max(side.accuracy))
    figure = percent(side.accuracy[best])
    begin = f"With {side.name} a neuron $\\tau_m = {symbol(best)}$ is the best that was tried, at {figure} %"
    if best in ends:
        return f"{begin}; it is an end of what was tried, so that no optimum is seen."
    leads = [[a - b for a, b in zip(side.accuracy[best], side.accuracy[end], strict=True)] for end in ends]
    points = " and ".join(f"{100 * statistics.mean(lead):.2f}" for lead in leads)
    if min(map(min, leads)) <= 0:
        return f"{begin}, between the ends, but not ahead of both in every seed: no optimum can be told from it."
    return f"{begin}: an optimum, ahead of the shortest and the longest in every seed, by {points} points in the mean."


def best_of(side: Curve) -> float:
    """The time constant of the highest mean accuracy."""
    return max(side.accuracy, key=lambda tau: statistics.mean(side.accuracy[tau]))


def symbol(tau: float) -> str:
    """A time constant in a formula."""
    return r"\infty" if math.isinf(tau) else f"{tau:g}"


def percent(values: list[float]) -> str:
    """Mean and deviation."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def pictures(results: Path = RESULTS) -> dict[str, tuple[Any, Callable[[], Figure]]]:
    """For each picture what is drawn in it, and how."""
    sides, _ = curves(results)
    if not sides:
        return {}
    shown = [[side.name, [*map(list, side.accuracy.items())], [*side.spikes.values()]] for side in sides]
    return {PICTURE: (shown, lambda: draw(sides))}


def draw(sides: list[Curve]) -> Figure:
    """Accuracy with its spread over seeds above, and spikes below; no leak stands at the right end."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, name, label, scale in (
        (above, "accuracy", "held-out accuracy (%)", 100),
        (below, "spikes", "hidden spikes an image", 1),
    ):
        for side, colour in zip(sides, COLOURS, strict=True):
            values = [[scale * value for value in each] for each in getattr(side, name).values()]
            means = [statistics.mean(each) for each in values]
            bars = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
            axes.errorbar(range(len(means)), means, bars, marker="o", capsize=3, color=colour, label=side.name)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6")
    taus = list(sides[0].accuracy)
    below.set_xticks(range(len(taus)), ["no leak" if math.isinf(tau) else f"{tau:g}" for tau in taus])
    below.set_xlabel("time constant of the membrane, in units of the recipe's times")
    above.legend(frameon=False)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Write text and table, the picture, or both."""
    write_asked(__doc__, arguments, tables, pictures, PAGE)


if __name__ == "__main__":
    main()
