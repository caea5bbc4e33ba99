"""Makes the tables and pictures of NoProp's documentation from result files.

    python benchmarks/noprop_report.py tables pictures

Reads `benchmarks/results/noprop_theory.json`, written by `noprop_theory.py`, and `results/noprop-*/*.json`, written by
`beyondprop reproduce`. Rewrites what stands between the markers of tables in the pages of NoProp, and the pictures in
`docs/pictures`: `make tables`, `make pictures`. Each picture carries a digest of the figures drawn in it; a
test fails when it is not that of the result files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from _noprop_cases import CHAIN_PEERS, SAME_BLOCKS
from _noprop_figures import ROOT, Figures
from _noprop_pictures import pictures
from _pictures import PICTURES, svg
from beyondprop.report.markdown import markdown_table
from beyondprop.report.tables import regenerate
from beyondprop.training.atomic import write_file

PAGES = [ROOT / "docs" / "noprop-theory.md", *sorted((ROOT / "docs" / "rules").glob("noprop*.md"))]


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
