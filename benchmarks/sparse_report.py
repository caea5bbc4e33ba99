"""Makes the tables and pictures of sparse layers from `sparse.json` and the results of the recipes.

    python benchmarks/sparse_report.py tables pictures

`make tables` and `make pictures` call this. Each picture carries a digest of the figures drawn in it, so that a test
can tell when it is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from _report import write_asked
from beyondprop.report.markdown import markdown_table
from signals_report import RESULTS, ROOT

PEERS = ("dense", "sparseprop", "torch CSR")
CEILINGS = ("dense product", "copy", "with its weights")
KERNELS = ("forward", "input_gradient", "weight_gradient")
CASE = re.compile(r"(.*), (\d+)% gone, (\d+) threads?")
RUNS = {"pruned little by little": "mnist-95", "sparse from scratch, exchanged": "mnist-95-scratch"}


def rows_of(results: Path) -> list[dict[str, Any]]:
    """The measurements, each with its layer, percentage and threads where it has them."""
    rows: list[dict[str, Any]] = json.loads((results / "sparse.json").read_bytes())["rows"]
    for row in rows:
        if (case := CASE.fullmatch(row["case"])) is not None:
            row |= {"layer": case[1], "gone": int(case[2]), "threads": int(case[3])}
    return rows


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Make the tables, by the names that their markers carry."""
    rows = rows_of(results)
    return {"sparse-layers": layer_table(rows), "sparse-networks": network_table(rows)}


def layer_table(rows: list[dict[str, Any]]) -> str:
    """One line a layer, sparsity and threads: milliseconds, ratios forward and backward, shares of the ceilings."""
    found: dict[tuple[str, int, int], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        if "layer" in row and row["peer"] in (*PEERS, *CEILINGS) and "ResNet" not in row["layer"]:
            key = (row["layer"], row["threads"], row["gone"])
            found.setdefault(key, {})[row["peer"], row["metric"]] = row
    heads = [
        "Layer",
        "Threads",
        "Gone",
        "Forward, ms",
        "Backward, ms",
        *(f"Beside {peer}" for peer in PEERS),
        "Of the FMA peak",
        "Of copying",
        "Without weights",
    ]
    cells = []
    for (layer, threads, gone), line in found.items():
        if ("dense", "forward_ms") not in line:
            continue
        ms = [f"{line['dense', f'{way}_ms']['ours']:.3g}" for way in ("forward", "backward")]
        ratios = [
            " / ".join(
                f"{line[peer, f'{way}_ms']['ratio']:.2f}"
                for way in ("forward", "backward")
                if (peer, f"{way}_ms") in line
            )
            for peer in PEERS
        ]
        shares = [
            " / ".join(f"{line[peer, f'{kernel}_{unit}']['ratio']:.2f}" for kernel in KERNELS)
            for peer, unit in (("dense product", "gflops"), ("copy", "compulsory_gb_per_s"))
        ]
        empty = 1 / line["with its weights", "empty_step_ms"]["ratio"]
        cells.append((layer, str(threads), f"{gone} %", *ms, *ratios, *shares, f"{empty:.2f}"))
    return markdown_table(heads, cells, left=heads[:1])


def network_table(rows: list[dict[str, Any]]) -> str:
    """What is measured apart from single layers in float32."""
    heads = ("Measured", "Metric", "Ours", "Beside", "Theirs", "Ratio")
    special = [r for r in rows if any(word in r["case"] for word in ("ResNet", "bfloat16")) or r["peer"] == "Numba"]
    cells = [
        (
            row["case"],
            row["metric"].replace("_", " "),
            f"{row['ours']:.4g}",
            row["peer"],
            f"{row['peer_value']:.4g}",
            f"{row['ratio']:.2f}",
        )
        for row in special
    ]
    return markdown_table(heads, cells, left=heads[:2])


# ------------------------------------------------------------------------------------------------------------ pictures


def pictures(results: Path = RESULTS, runs: Path = ROOT / "results") -> dict[str, tuple[Any, Callable[[], Figure]]]:
    """For each picture what is drawn in it, and how."""
    speed = speeds(rows_of(results))
    found = {"sparse-speed.svg": (speed, lambda: draw_speed(speed))}
    accuracy = accuracies(runs)
    if any(len(curve) > 1 for curve in accuracy.values()):
        dense = dense_accuracy(runs)
        found["sparse-accuracy.svg"] = ([accuracy, dense], lambda: draw_accuracy(accuracy, dense))
    return found


def speeds(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """How many times faster a step is than a dense one, with one thread: by side, layer and percentage."""
    found: dict[str, dict[str, dict[int, float]]] = {"ours": {}, "sparseprop": {}}
    for row in rows:
        if (
            row.get("threads") == 1
            and row["metric"] == "step_ms"
            and row["peer"] in PEERS[:2]
            and "ResNet" not in row["case"]
        ):
            if "bfloat16" in row["case"]:
                continue
            side = "ours" if row["peer"] == "dense" else "sparseprop"
            found[side].setdefault(row["layer"], {})[row["gone"]] = row["ratio"]
    for layer, line in found["sparseprop"].items():  # ratios beside ours become ratios beside dense
        found["sparseprop"][layer] = {gone: found["ours"][layer][gone] / ratio for gone, ratio in line.items()}
    return found


def draw_speed(speed: dict[str, dict[str, dict[int, float]]]) -> Figure:
    """One line a layer: how many times faster than dense, by sparsity, and the authors' package dashed."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (layer, line) in enumerate(speed["ours"].items()):
        places = range(len(line))
        axes.plot(places, list(line.values()), color=f"C{number}", marker="o", label=layer)
        if layer in speed["sparseprop"]:
            theirs = speed["sparseprop"][layer]
            axes.plot(places, list(theirs.values()), color=f"C{number}", linestyle="--", linewidth=1.0)
        axes.set_xticks(places, [f"{gone} %" for gone in line])
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set(xlabel="weights gone", ylabel="a step, times faster than dense", title="One thread; dashed: sparseprop")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def accuracies(runs: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and deviation of test accuracy on MNIST by sparsity, for each way to get there."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, variant in RUNS.items():
        curve = {}
        for path in sorted((runs / "sparseprop").glob(f"{variant}*.json")):
            if not re.fullmatch(rf"{variant}(-at-[\d.]+)?", path.stem):
                continue
            result = json.loads(path.read_bytes())
            test = result["metrics"]["test_accuracy"]
            curve[f"{result['settings']['sparsity']:.4g}"] = (test["mean"], test["std"])
        found[name] = dict(sorted(curve.items(), key=lambda item: float(item[0])))
    return found


def dense_accuracy(runs: Path) -> float | None:
    """That of the dense network, where it was measured."""
    path = runs / "bp" / "mnist-sparseprop.json"
    return json.loads(path.read_bytes())["metrics"]["test_accuracy"]["mean"] if path.exists() else None


def draw_accuracy(accuracy: dict[str, dict[str, tuple[float, float]]], dense: float | None) -> Figure:
    """Accuracy by share of weights that survive, on a logarithmic axis, beside the dense network's."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, curve in accuracy.items():
        if curve:
            left = [100 * (1 - float(gone)) for gone in curve]
            means, bars = zip(*curve.values(), strict=True)
            axes.errorbar(left, [100 * m for m in means], [100 * b for b in bars], marker="o", capsize=3, label=name)
    if dense is not None:
        axes.axhline(100 * dense, color="0.4", linewidth=1.0, label="dense, by back-propagation")
    axes.set_xscale("log")
    axes.invert_xaxis()
    shares = sorted({round(100 * (1 - float(gone)), 2) for curve in accuracy.values() for gone in curve})
    axes.set_xticks(shares, [f"{share:g} %" for share in shares])
    axes.minorticks_off()
    axes.set(xlabel="weights of sparse layers that survive", ylabel="test accuracy (%)", title="A perceptron on MNIST")
    axes.legend(frameon=False)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Write tables, pictures or both."""
    write_asked(__doc__, arguments, tables, pictures)


if __name__ == "__main__":
    main()
