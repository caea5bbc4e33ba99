"""The pictures of NoProp's documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, PercentFormatter

from _noprop_cases import ONE_CLASSIFIER, SAME_BLOCKS, Size, through_steps
from _noprop_figures import Figures

DT, CT, FM, BP = "#2f7d5b", "#2f5f9e", "#c2622d", "#8a8a8a"
SYSTEMS = {"noprop-ct": CT, "noprop-fm": FM}
NAMES = {"noprop-dt": "NoProp-DT", "noprop-ct": "NoProp-CT", "noprop-fm": "NoProp-FM"}
PEERS = {
    SAME_BLOCKS: "back-propagation, same 10 blocks",
    ONE_CLASSIFIER: "back-propagation, one classifier",
    **{through_steps(steps): f"back-propagation, {steps} Euler steps" for steps in Size.solver_steps},
}
DRAWN = {  # colour, dashes and marker of a way to predict
    "multistep": (CT, "-", "o"),
    "exponential": ("#4aa3a2", "-", "s"),
    "heun": ("#7a5aa6", "-", "^"),
    "euler": (FM, "-", "D"),
    "euler, even in time": (FM, ":", "D"),
    "euler, log-snr": (FM, ":", "D"),
    "adams-bashforth": ("#b8922d", "-", "s"),
    "multistep, from noise": (CT, "--", "o"),
    "ancestral, from noise": ("#4aa3a2", "--", "v"),
    "euler, from noise": (FM, "--", "D"),
    "weighting snr": (BP, "-", "x"),
}
# Where it begins is what accuracy depends on; how steps are taken shows in the distance alone.
IN_ACCURACY = ("multistep", "multistep, from noise", "ancestral, from noise", "weighting snr", "euler, from noise")


def pictures(figures: Figures) -> dict[str, tuple[Any, Callable[[], Figure]]]:
    """For each picture, the figures that it shows, and what draws it."""
    shown = {
        "noprop-steps.svg": [figures.steps(), figures.distances()],
        "noprop-test-steps.svg": figures.steps_on_test(),
        "noprop-cost.svg": figures.step_costs(),
        "noprop-chain.svg": [[*of, ways] for of, ways in figures.chain().items()],
    }
    drawn = (draw_steps, draw_test_steps, draw_costs, draw_chain)
    return {
        name: (content, lambda draw=draw: draw(figures))
        for (name, content), draw in zip(shown.items(), drawn, strict=True)
    }


def draw_steps(figures: Figures) -> Figure:
    """Accuracy on held-out digits against evaluations of the block, and below it the distance to the solution."""
    figure = Figure(figsize=(9.6, 7.0), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    for column, (system, ways) in enumerate(figures.steps().items()):
        default, distances = next(iter(ways)), figures.distances()[system]
        accuracy, distance = (figure.add_subplot(grid[line, column]) for line in (0, 1))
        shown = {way: found for way, found in ways.items() if way == default or way in IN_ACCURACY}
        for axes, curves in ((accuracy, shown), (distance, distances)):
            for way, found in curves.items():
                # Heun's steps take two evaluations each.
                by_evaluations = {count * (2 if way == "heun" else 1): value for count, value in found.items()}
                note = {default: " (default)", "weighting snr": " (the paper's)"}.get(way, "")
                _plot(axes, by_evaluations, way + note, DRAWN[way])
        _finish_steps(accuracy, f"{NAMES[system]}: accuracy on held-out digits (%)", "evaluations of the block")
        _finish_steps(distance, f"{NAMES[system]}: distance to 1000 steps of Heun (%)", "evaluations of the block")
        distance.set_yscale("log")
        distance.autoscale(axis="y")
        distance.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
        distance.legend(frameon=False, loc="upper right")
    return figure


def draw_test_steps(figures: Figures) -> Figure:
    """Accuracy on test images against steps, where reproductions have measured it: one panel a data set."""
    on_test = figures.steps_on_test()
    columns, lines = min(2, len(on_test)), (len(on_test) + 1) // 2
    figure = Figure(figsize=(1.2 + 4.2 * columns, 3.4 * lines), layout="constrained")
    for place, (name, systems) in enumerate(on_test.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        for system, by_steps in systems.items():
            _plot(axes, by_steps, NAMES[system], (SYSTEMS[system], "-", "o"))
        _finish_steps(axes, f"{name}: accuracy on test images (%)", "steps of the recipe's way")
    return figure


def _plot(axes: Axes, points: dict[int, float], label: str, style: tuple[str, str, str]) -> None:
    colour, dashes, marker = style
    axes.plot(
        list(points),
        list(points.values()),
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=4,
        linewidth=1.6,
        label=label,
    )


def _finish_steps(axes: Axes, title: str, label: str) -> None:
    axes.set(title=title, xlabel=label, xscale="log")
    axes.xaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10, 20, 50, 100, 1000]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=""))
    low, high = axes.get_ylim()
    if high - low < 0.02:  # so that a few images do not look like a difference
        axes.set_ylim((low + high) / 2 - 0.01, min(1.0, (low + high) / 2 + 0.01))
    axes.legend(frameon=False, loc="best")
    _plain(axes)


def draw_costs(figures: Figures) -> Figure:
    """Operations and bytes of a training step: the ten blocks above, the one block below."""
    found = figures.step_costs()
    one_block = [side for side in found if side not in ("noprop-dt", SAME_BLOCKS) and "draws" not in side]
    ours_first = sorted(one_block, key=lambda side: not side.startswith("noprop"))
    sides = ["noprop-dt", SAME_BLOCKS, *ours_first]
    heights = [len(sides) - i - (0.5 if i >= 2 else 0) for i in range(len(sides))]
    colours = [{"noprop-dt": DT, **SYSTEMS}.get(side, BP) for side in sides]
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, metric, scale, title, form in (
        (left, "flops_per_image", 1e9, "Operations, GFLOP an image", "{:.2f}"),
        (right, "peak_saved_for_backward_bytes", 1e6, "Kept for the backward pass, MB", "{:.0f}"),
    ):
        values = [found[side][metric] / scale for side in sides]
        bars = axes.barh(heights, values, color=colours, height=0.72)
        axes.bar_label(bars, [form.format(value) for value in values], padding=3)
        axes.set(title=title, xlim=(0, 1.15 * max(values)))
        axes.tick_params(axis="y", length=0)
        _plain(axes, "x")
    left.set_yticks(heights, [NAMES.get(side, PEERS.get(side, side)) for side in sides])
    return figure


def draw_chain(figures: Figures) -> Figure:
    """Eight blocks, ever weaker: read alone, together, and as a chain."""
    found = figures.chain()
    widest = max(width for _, width in found)
    by_view = {seen: ways for (seen, width), ways in found.items() if width == widest}
    by_width = {f"width {width}": ways for (seen, width), ways in found.items() if seen == "the whole image"}
    styles = {
        "blocks alone, probabilities multiplied": ("#b8922d", "-", "D"),
        "blocks alone, probabilities averaged": ("#b8922d", "--", "s"),
        "chain": (DT, "-", "o"),
        "best block alone": ("#7a5aa6", "-", "^"),
        "first block alone": ("#7a5aa6", "--", "v"),
        SAME_BLOCKS: (BP, "-", "x"),
    }
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    axes_of = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [4, 3]})
    titles = (f"Each block sees less (width {widest})", "Each block is narrower (sees the whole image)")
    for axes, kinds, title in zip(axes_of, (by_view, by_width), titles, strict=True):
        for way, (colour, dashes, marker) in styles.items():
            values = [ways[way] for ways in kinds.values()]
            axes.plot(range(len(kinds)), values, color=colour, linestyle=dashes, marker=marker, markersize=5, label=way)
        axes.set_xticks(range(len(kinds)), [_brief(kind) for kind in kinds])
        axes.set(title=title, xlim=(-0.2, len(kinds) - 0.8), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=""))
        _plain(axes)
    axes_of[0].set_ylabel("accuracy on held-out digits (%)")
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _brief(kind: str) -> str:
    return kind.replace("the ", "").replace("1 of 8 rows", "1 row").replace(" of 8", "")


def _plain(axes: Axes, grid: str = "both") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
