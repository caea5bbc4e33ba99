"""Makes the tables and pictures of NoProp's documentation from result files.

    python benchmarks/noprop_report.py tables pictures

Reads `benchmarks/results/noprop_theory.json`, written by `noprop_theory.py`, and `results/noprop-*/*.json`, written by
`beyondprop reproduce`. Rewrites what stands between the markers of tables in the pages of NoProp, and the pictures in
`docs/pictures`: `make tables`, `make pictures`. Each picture carries a digest of the figures drawn in it; a
test fails when it is not that of the result files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, PercentFormatter

from beyondprop.report.markdown import markdown_table
from beyondprop.report.results import read_results
from beyondprop.report.tables import regenerate
from beyondprop.training.atomic import write_file
from noprop_theory import CHAIN_PEERS, ONE_CLASSIFIER, OUT, SAME_BLOCKS, Size, through_steps

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / "noprop-theory.md", *sorted((ROOT / "docs" / "rules").glob("noprop*.md"))]
PICTURES = ROOT / "docs" / "pictures"

DT, CT, FM, BP = "#2f7d5b", "#2f5f9e", "#c2622d", "#8a8a8a"
SYSTEMS = {"noprop-ct": CT, "noprop-fm": FM}
NAMES = {"noprop-dt": "NoProp-DT", "noprop-ct": "NoProp-CT", "noprop-fm": "NoProp-FM"}
PEERS = {
    SAME_BLOCKS: "back-propagation, same 10 blocks",
    ONE_CLASSIFIER: "back-propagation, one classifier",
    **{through_steps(steps): f"back-propagation, {steps} Euler steps" for steps in Size.solver_steps},
}

# ------------------------------------------------------------------------------------------------------------- figures

Row = dict[str, Any]


class Figures:
    """What the result files say, in the form in which it is drawn and tabulated.

    Args:
        theory: The result file of `noprop_theory.py`.
        results: Folder of the files of `beyondprop reproduce`.
    """

    def __init__(self, theory: Path = OUT, results: Path = ROOT / "results") -> None:
        self.rows: list[Row] = json.loads(theory.read_bytes())["rows"]
        self.results = [each for each in read_results(results) if each["recipe"].startswith("noprop-")]

    def steps(self) -> dict[str, dict[str, dict[int, float]]]:
        """Accuracy on held-out digits: system, then way or setting, then steps."""
        return self._by_steps("validation_accuracy")

    def distances(self) -> dict[str, dict[str, dict[int, float]]]:
        """What the steps leave unsolved, in the same form."""
        return self._by_steps("distance_to_solution")

    def _by_steps(self, name: str) -> dict[str, dict[str, dict[int, float]]]:
        found: dict[str, dict[str, dict[int, float]]] = {}
        for row in self.rows:
            case = re.fullmatch(r"(noprop-\w+)/digits, .* seeds, (.*)", row["case"])
            metric = re.fullmatch(rf"{name}_in_(\d+)_steps", row["metric"])
            if case and metric:
                found.setdefault(case[1], {}).setdefault(case[2], {})[int(metric[1])] = row["ours"]
        return found

    def lowest(self, system: str, setting: str, steps: int) -> tuple[float, float]:
        """The worst seed's accuracy with a setting, and with the recipe's own."""
        metric = f"lowest_validation_accuracy_in_{steps}_steps"
        (row,) = (
            row
            for row in self.rows
            if row["case"].startswith(f"{system}/digits") and row["case"].endswith(f", {setting}")
            if row["metric"] == metric
        )
        return row["ours"], row["peer_value"]

    def step_costs(self) -> dict[str, dict[str, float]]:
        """What a training step costs: side, then metric."""
        found: dict[str, dict[str, float]] = {}
        for row in self.rows:
            if "training step" in row["case"]:
                found.setdefault(row["case"].split(":")[0], {})[row["metric"]] = row["ours"]
                found.setdefault(row["peer"], {})[row["metric"]] = row["peer_value"]
        return found

    def predictions(self) -> list[tuple[str, str, float, float]]:
        """What a prediction costs: system, steps, operations an image, those of the peer."""
        rows = [row for row in self.rows if ": prediction" in row["case"]]
        return [
            (row["case"].split(":")[0], row["case"].rsplit(", ", 1)[1], row["ours"], row["peer_value"]) for row in rows
        ]

    def chain(self) -> dict[tuple[str, int], dict[str, float]]:
        """Accuracy of eight blocks: what each sees and its width, then the way to read them."""
        found: dict[tuple[str, int], dict[str, float]] = {}
        for row in self.rows:
            case = re.match(r"8 blocks on digits, each sees (.*?), width (\d+)", row["case"])
            if case:
                ways = found.setdefault((case[1], int(case[2])), {"chain": row["ours"]})
                ways[row["peer"]] = row["peer_value"]
        return found

    def steps_on_test(self) -> dict[str, dict[str, dict[int, float]]]:
        """Accuracy on test images where a reproduction measured it: data set, then system, then steps."""
        found: dict[str, dict[str, dict[int, float]]] = {}
        for result in self.results:
            system, variant = result["recipe"].split("/")
            by_steps = {
                int(name.split("_")[-2]): metric["mean"]
                for name, metric in result["metrics"].items()
                if re.fullmatch(r"test_accuracy_in_\d+_steps", name)
            }
            if by_steps and result["file"].stem == variant:
                found.setdefault(variant, {})[system] = dict(sorted(by_steps.items()))
        return found

    def chains_on_test(self) -> dict[str, dict[str, float]]:
        """What the chain adds on test images where a reproduction measured it."""
        ways = ("test_accuracy_chain", "test_accuracy_mean_of_chain", "test_accuracy_blocks_alone_pooled")
        found = {}
        for result in self.results:
            metrics = result["metrics"]
            if "block_test_accuracy" in metrics:
                label = f"{result['recipe'].split('/')[0]}/{result['file'].stem}"
                blocks = metrics["block_test_accuracy"]["mean"]
                found[label] = {"first": blocks[0], "best": max(blocks), **{way: metrics[way]["mean"] for way in ways}}
        return found


# -------------------------------------------------------------------------------------------------------------- tables


def tables(figures: Figures) -> dict[str, str]:
    """Make every table, by the name that its markers carry."""
    return {
        "noprop-step-cost": step_cost_table(figures),
        "noprop-prediction-cost": prediction_cost_table(figures),
        "noprop-ct-steps": steps_table(figures, "noprop-ct"),
        "noprop-fm-steps": steps_table(figures, "noprop-fm"),
        "noprop-ct-distance": distance_table(figures, "noprop-ct"),
        "noprop-fm-distance": distance_table(figures, "noprop-fm"),
        "noprop-ct-settings": settings_table(figures, "noprop-ct"),
        "noprop-fm-settings": settings_table(figures, "noprop-fm"),
        "noprop-chain": chain_table(figures),
        "noprop-test-chain": test_chain_table(figures),
        "noprop-test-steps": test_steps_table(figures),
    }


def step_cost_table(figures: Figures) -> str:
    """One row a side: operations and bytes of a training step."""
    heads = ("Training step", "GFLOP an image", "MB kept for backward", "MB of activations", "MB in all")
    rows = []
    for side, found in figures.step_costs().items():
        name = f"`{side}`" if side.startswith("noprop") else side
        mega = [f"{found[f'peak_{what}_bytes'] / 1e6:.0f}" for what in ("saved_for_backward", "activation", "memory")]
        rows.append((name, f"{found['flops_per_image'] / 1e9:.3f}", *mega))
    return markdown_table(heads, rows, left=heads[:1])


def prediction_cost_table(figures: Figures) -> str:
    """One row a number of steps."""
    heads = ("Prediction", "Steps or blocks", "GFLOP an image", "GFLOP, the image read at every step")
    rows = [
        (f"`{name.replace(' and ', '`, `')}`", steps, f"{ours / 1e9:.3f}", f"{again / 1e9:.3f}")
        for name, steps, ours, again in figures.predictions()
    ]
    return markdown_table(heads, rows, left=heads[:2])


def steps_table(figures: Figures, system: str) -> str:
    """Accuracy: one row a way to predict, one column a number of steps."""
    ways, settings = figures.steps()[system], _settings(figures, system)
    return _ways_table({way: found for way, found in ways.items() if way not in settings}, percent)


def distance_table(figures: Figures, system: str) -> str:
    """What is left unsolved: one row a way to predict, one column a number of steps."""
    return _ways_table(figures.distances()[system], lambda value: f"{100 * value:.2f}")


def _ways_table(ways: dict[str, dict[int, float]], form: Callable[[float], str]) -> str:
    counts = list(next(iter(ways.values())))
    heads = ("Way to predict", *(f"{count} steps" if count > 1 else "1 step" for count in counts))
    rows = [
        (f"{way} (default)" if i == 0 else way, *(form(found[count]) for count in counts))
        for i, (way, found) in enumerate(ways.items())
    ]
    return markdown_table(heads, rows, left=heads[:1])


def settings_table(figures: Figures, system: str) -> str:
    """One row a changed setting beside the recipe's own."""
    ways = figures.steps()[system]
    usual = next(iter(ways.values()))
    heads = ("Changed setting", "1 step", "20 steps", "worst seed, 20 steps")
    settings = _settings(figures, system)
    lowest = {setting: figures.lowest(system, setting, 20) for setting in settings}
    rows = [("none", percent(usual[1]), percent(usual[20]), percent(next(iter(lowest.values()))[1]))]
    rows += [(s, percent(ways[s][1]), percent(ways[s][20]), percent(lowest[s][0])) for s in settings]
    return markdown_table(heads, rows, left=heads[:1])


def _settings(figures: Figures, system: str) -> list[str]:
    """Names of the changed settings, which are the cases with a worst seed."""
    ways = figures.steps()[system]
    worst = [row["case"] for row in figures.rows if row["metric"].startswith("lowest_")]
    return [way for way in ways if any(c.startswith(f"{system}/") and c.endswith(f", {way}") for c in worst)]


def chain_table(figures: Figures) -> str:
    """One row a kind of block."""
    heads = (
        "Each block sees",
        "Width",
        "First block",
        "Best block",
        "Averaged",
        "Multiplied",
        "Chain",
        "Back-propagation",
    )
    ways = (*CHAIN_PEERS[:4], "chain", SAME_BLOCKS)
    rows = [
        (seen, str(width), *(percent(found[way]) for way in ways)) for (seen, width), found in figures.chain().items()
    ]
    return markdown_table(heads, rows, left=heads[:1])


def test_chain_table(figures: Figures) -> str:
    """One row a reproduction of NoProp-DT."""
    heads = ("Result", "First block", "Best block", "Blocks alone, averaged", "Chain", "Chain, mean of its blocks")
    ways = ("first", "best", "test_accuracy_blocks_alone_pooled", "test_accuracy_chain", "test_accuracy_mean_of_chain")
    found = figures.chains_on_test()
    rows = [(f"`{label}`", *(percent(values[way], 2) for way in ways)) for label, values in found.items()]
    return markdown_table(heads, rows, left=heads[:1]) if rows else "No results yet."


def test_steps_table(figures: Figures) -> str:
    """One row a reproduction of NoProp-CT or NoProp-FM."""
    found = [(f"`{s}/{d}`", by) for d, systems in figures.steps_on_test().items() for s, by in systems.items()]
    if not found:
        return "No results yet."
    counts = sorted({count for _, by_steps in found for count in by_steps})
    heads = ("Result", *(f"{count} steps" if count > 1 else "1 step" for count in counts))
    cells = [(label, *(percent(by[count], 2) if count in by else "" for count in counts)) for label, by in found]
    return markdown_table(heads, cells, left=heads[:1])


def percent(value: float, places: int = 1) -> str:
    """A share in percent, without the sign; of the ten thousand test images two places can be told apart."""
    return f"{100 * value:.{places}f}"


# ------------------------------------------------------------------------------------------------------------ pictures


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


def digest(content: Any) -> str:
    """Of what a picture shows."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def svg(content: Any, draw: Callable[[], Figure]) -> bytes:
    """Draw a picture that says in its description what it was made from."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "beyondprop", "font.size": 9.5, "axes.titlesize": 10.5}):
        metadata = {"Date": None, "Description": f"figures: {digest(content)}"}
        FigureCanvasSVG(draw()).print_svg(buffer, metadata=metadata)
    return buffer.getvalue()


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


# ---------------------------------------------------------------------------------------------------------------- main


def stale_pictures(made: Mapping[str, tuple[Any, Callable[[], Figure]]], folder: Path = PICTURES) -> Iterator[str]:
    """Name the pictures that are missing or show other figures than the result files hold."""
    for name, (content, _) in made.items():
        path = folder / name
        if not path.exists() or digest(content) not in path.read_text(encoding="utf-8"):
            yield name


def main(arguments: list[str] | None = None) -> None:
    """Write tables, pictures or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["tables", "pictures"], default=["tables", "pictures"])
    what, figures = parser.parse_args(arguments).what, Figures()
    if "tables" in what:
        made = tables(figures)
        for page in PAGES:
            write_file(page, regenerate(page.read_text(encoding="utf-8"), made).encode())
    if "pictures" in what:
        PICTURES.mkdir(exist_ok=True)
        for name, (content, draw) in pictures(figures).items():
            write_file(PICTURES / name, svg(content, draw))


if __name__ == "__main__":
    main()
