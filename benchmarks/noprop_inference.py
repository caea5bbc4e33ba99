"""Compares the ways to predict with a trained NoProp-DT on images held out of training.

    python benchmarks/noprop_inference.py --seeds 5

Trains the recipe `noprop-dt/digits` on the training set less 287 held-out images, once for each seed, and reads each
network in every way. That NoPropDT predicts without noise by default was chosen by this table; no test image is
looked at. It is written to `benchmarks/results/noprop_inference.json`, where `ours` is the default's accuracy (mean
over seeds) and `peer_value` that of the other way.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from _timing import compare, environment, write_results
from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.training.execution import Execution

HELD_OUT = 287
DEFAULT = "chain"


def accuracies(seed: int, folder: Path) -> dict[str, float]:
    """Train one seed and measure every way to predict on the held-out images."""
    recipe = find_recipe("noprop-dt/digits")
    settings = replace(recipe.settings, validation=HELD_OUT)
    training.train(recipe, settings, Execution(device="cpu", seed=seed), folder, progress=False)
    run = training.load_run(folder)
    assert run.validation is not None
    figures = run.measures(run.validation)
    blocks = figures.pop("block_test_accuracy")
    return {name.removeprefix("test_accuracy_"): value for name, value in figures.items()} | {"first_block": blocks[0]}


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "noprop_inference.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [accuracies(seed, Path(folder) / str(seed)) for seed in range(arguments.seeds)]
    means = {way: statistics.fmean(each[way] for each in found) for way in found[0]}
    case = f"noprop-dt/digits, {HELD_OUT} held-out images, {arguments.seeds} seeds"
    rows = [
        compare(case, "validation_accuracy", means[DEFAULT], way, value, less_is_better=False)
        for way, value in means.items()
        if way != DEFAULT
    ]
    for way, value in means.items():
        print(f"{way:22} {100 * value:.2f} %")
    write_results(arguments.out, environment(torch.device("cpu")), rows)


if __name__ == "__main__":
    main()
