"""Inference of networks beside closed forms, and what it costs by the number of nodes.

    python benchmarks/dynamics.py --threads 2             # Lorenz networks of 8, 16, 32 and 64 nodes, 1 % noise
    python benchmarks/dynamics.py --threads 2 --short     # 4 and 8 nodes, in a minute

For each size one network is simulated, inferred, and given to least squares over the true library. The last row is the
slope of log seconds by log nodes. The rows are written to `benchmarks/results/dynamics.json`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from _timing import Row, compare, environment, write_results
from beyondprop.dynamics.inference import NetworkInference
from beyondprop.dynamics.regression import least_squares
from beyondprop.dynamics.scores import edge_auc, weight_rmse
from beyondprop.dynamics.smoothing import central_differences
from beyondprop.recipes.network_inference import LORENZ, NetworkSettings, draw

OUT = Path(__file__).resolve().parent / "results" / "dynamics.json"
PEER = "least squares, quadratic library"


def measured(settings: NetworkSettings) -> tuple[float, list[Row]]:
    """Seconds of one inference, and its rows."""
    splits = draw(settings, 0)
    weights = splits.train.weights  # type: ignore[attr-defined]
    flat = torch.cat((splits.train.images[0], splits.train.labels[0, -1:]))
    series = flat.view(len(flat), settings.nodes, 3)
    torch.manual_seed(0)
    inference = NetworkInference(
        settings.nodes, 3, interval=settings.interval, hidden=settings.hidden, windows=settings.windows
    )
    start = time.perf_counter()
    inference.fit(series)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    closed = least_squares(*central_differences(series.double().numpy(), settings.interval))
    theirs = time.perf_counter() - start
    case = f"Lorenz, {settings.nodes} nodes, {settings.steps} samples, {100 * settings.noise:g} % noise"
    found = inference.weights.double().numpy()
    ours, their_auc = edge_auc(np.abs(found), weights), edge_auc(np.abs(closed.weights), weights)
    errors = weight_rmse(found, weights), weight_rmse(closed.weights, weights)
    return seconds, [
        compare(case, "seconds", seconds, PEER, theirs, less_is_better=True),
        compare(case, "edge_auc", ours, PEER, their_auc, less_is_better=False),
        compare(case, "weight_rmse", errors[0], PEER, errors[1], less_is_better=True),
    ]


def rows(sizes: tuple[int, ...], settings: NetworkSettings) -> Iterator[Row]:
    """All of them."""
    taken = []
    for nodes in sizes:
        edges = min(0.5, 5 / nodes)  # about as many edges into each node
        seconds, found = measured(replace(settings, nodes=nodes, edges=edges))
        taken.append(seconds)
        yield from found
        print(f"{nodes} nodes: {seconds:.1f} s", flush=True)
    slope = float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])
    yield Row(f"Lorenz, {sizes[0]} to {sizes[-1]} nodes", "slope_of_log_seconds", slope, "", None, None)


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--short", action="store_true", help="small networks")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(argv)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    sizes = (4, 8) if given.short else (8, 16, 32, 64)
    settings = replace(LORENZ, steps=400, windows=(16,), hidden=8) if given.short else LORENZ
    found = list(rows(sizes, settings))
    write_results(given.out, environment(torch.device("cpu")), found)


if __name__ == "__main__":
    main()
