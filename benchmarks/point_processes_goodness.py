"""Goodness of fit of several models of events, drawn beside each other.

    python benchmarks/point_processes_goodness.py gchp/hawkes gchp/hawkes-mle

The recipes have to be of one set of events. Each is trained from seed 0, as `beyondprop reproduce` does it: a run that
stands there already is only read. Beside them stands a constant rate, that of the training events.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.point_processes import HawkesMLE, rescaled_gaps
from beyondprop.reproduce import seed_folder
from beyondprop.training.atomic import write_file
from beyondprop.training.execution import Execution
from beyondprop.training.goodness_picture import draw_goodness

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "point-processes-goodness.png"


def main(arguments: list[str] | None = None) -> None:
    """Rescale the test events by each model, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--epochs", type=int, help="in place of the recipes' own")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    gaps: dict[str, np.ndarray] = {}
    about = set()
    for name in options.recipes:
        recipe = find_recipe(name)
        settings = recipe.settings
        if options.epochs and hasattr(settings, "epochs"):
            settings = replace(settings, epochs=options.epochs)
        folder = seed_folder(recipe, settings, Execution(), 0)
        training.train(recipe, settings, Execution(), folder, resume=True)
        run = training.load_run(folder)
        about.add(run.splits.test.name)
        if not gaps:
            train = run.splits.train
            constant = HawkesMLE.for_events(train)  # type: ignore[arg-type]
            constant.base.fill_(1 / constant.classes)  # together one event in a mean gap
            with torch.no_grad():
                gaps["constant rate"] = rescaled_gaps(constant, run.batches(run.splits.test))
        gaps[name] = rescaled_gaps(run.rule, run.batches(run.splits.test))  # type: ignore[arg-type]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_file(options.out, draw_goodness(gaps, ", ".join(sorted(about))))


if __name__ == "__main__":
    main()
