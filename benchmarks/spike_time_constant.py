"""Test accuracy against the time constant of the membrane, with an optimum in between, as arXiv 2211.16113 reports.

    python benchmarks/spike_time_constant.py --recipe spike-timing/mnist --tau-m 0.5 1 2 4 8 16 --seeds 3

Trains the recipe with each time constant (tau_s stays) and each seed, measures on images held out of training, and
writes `results/spike_time_constant.json` and `.png`. Spikes are counted, too: the time constant changes their number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from _timing import environment
from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.training.atomic import write_file
from beyondprop.training.execution import Execution

OUT = Path(__file__).resolve().parent / "results" / "spike_time_constant.json"


def measure(name: str, tau_m: float, seed: int, epochs: int | None, held_out: int) -> tuple[float, float]:
    """Train once; return the accuracy on held-out images, and the hidden spikes of a test sample."""
    recipe = find_recipe(name)
    settings: Any = replace(recipe.settings, tau_m=tau_m, validation=held_out)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    with tempfile.TemporaryDirectory() as folder:
        found = training.train(recipe, settings, Execution(seed=seed), Path(folder) / "run", progress=False).metrics
    return found["validation_accuracy"], found["spikes_per_sample"][0]


def draw(rows: list[dict[str, Any]], title: str) -> FigureCanvasAgg:
    """Draw accuracy with its spread over seeds, and spikes below."""
    figure = Figure(figsize=(6.4, 5.2), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    taus = [row["tau_m"] for row in rows]
    for axes, key, label, scale in (
        (above, "accuracy", "held-out accuracy (%)", 100),
        (below, "spikes", "hidden spikes a sample", 1),
    ):
        means = [scale * statistics.mean(row[key]) for row in rows]
        spreads = [scale * (statistics.stdev(row[key]) if len(row[key]) > 1 else 0.0) for row in rows]
        axes.errorbar(taus, means, spreads, marker="o", color="#4c72b0", linewidth=1.8)
        axes.set(ylabel=label, xscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6")
    below.set_xlabel("tau_m, in units of the recipe's times")
    below.set_xticks(taus, [f"{tau:g}" for tau in taus])
    below.minorticks_off()
    return FigureCanvasAgg(figure)


def main(arguments: list[str] | None = None) -> None:
    """Train, print, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="spike-timing/mnist")
    parser.add_argument("--tau-m", type=float, nargs="+", default=[0.5, 1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--held-out", type=int, default=5000, help="images held out of training")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file; the picture stands beside it")
    options = parser.parse_args(arguments)
    rows = []
    for tau_m in sorted(options.tau_m):
        each = [measure(options.recipe, tau_m, seed, options.epochs, options.held_out) for seed in range(options.seeds)]
        accuracies, spikes = (list(part) for part in zip(*each, strict=True))
        rows.append({"tau_m": tau_m, "accuracy": accuracies, "spikes": spikes})
        print(f"tau_m {tau_m:g}: accuracy {statistics.mean(accuracies):.4f}, spikes {statistics.mean(spikes):.0f}")
    content = {"environment": environment(torch.device("cpu")), "recipe": options.recipe, "rows": rows}
    write_file(options.out, (json.dumps(content, indent=2) + "\n").encode())
    draw(rows, f"{options.recipe}: accuracy against the time constant").print_png(str(options.out.with_suffix(".png")))


if __name__ == "__main__":
    main()
