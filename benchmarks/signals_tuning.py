"""Which learning rate each rule of the family `signals` wants, by images held out of training.

    python benchmarks/signals_tuning.py --epochs 2
    python benchmarks/signals_tuning.py --epochs 3 --recipes ff/mnist-small bp/mnist-small-ff --out FILE

Every recipe on the networks that all rules share, back-propagation among them, is trained with every rate of one grid,
for the same few epochs (on the digits, all), under its own schedule, with 10,000 of the training images held out, or
287 of the digits; the accuracy on these is written down. The test images are not looked at. What was measured before is
not measured again, so that a call that is interrupted goes on where it stopped; `--again` begins anew. The recipes'
learning rates are the best ones of the result file: a test compares them.

Fashion-MNIST takes MNIST's rates, but for the rules with targets.
The blockwise rules and their baselines are tuned by `--recipes`, into `local_tuning.json`; those with targets into
`targets_tuning.json`, where `--field noise`, say, puts the grid on another setting than the learning rate, one that
has words among them: `--field augment --rates none crop-flip`. `--given dropout=0.2` changes the recipes beforehand.
`--targets` measures tpSGD's local losses and the scale of its targets instead, at the recipe's rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from _timing import Row, environment, write_results
from beyondprop import training
from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.errors import NonFiniteError
from beyondprop.recipe import Recipe
from beyondprop.recipes.classifiers import ClassifierSettings
from beyondprop.training.execution import Execution

OUT = Path(__file__).resolve().parent / "results" / "signals_tuning.json"
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
IMAGES = {"digits": 287, "mnist": 10_000, "cifar-10": 10_000}
REGRESSION = ("marked-mean",)
HELD_OUT = IMAGES | {"cifar-100": 10_000, "fashion-mnist": 10_000, "temporal-order": 1000, "marked-mean": 1000}


def recipes(data: str, networks: list[str]) -> list[Recipe]:
    """Those of every rule on one data set and the networks that all share."""
    shared = [
        recipe
        for system in SYSTEMS
        for recipe in system.recipes
        if isinstance(recipe.settings, ClassifierSettings) and recipe.dataset == data
    ]
    return [recipe for recipe in shared if recipe.settings.network in networks]


def name(recipe: Recipe, changes: Mapping[str, Any]) -> str:
    """What one training is called in the result file."""
    said = [
        f"{value} epochs" if field == "epochs" else f"{field.replace('_', ' ')} {value}"
        for field, value in changes.items()
    ]
    return ", ".join([recipe.id, *said])


def measure(recipe: Recipe, changes: Mapping[str, Any], precision: str) -> tuple[str, float]:
    """Train once, and tell the accuracy on what was held out, or the squared error where that is the loss."""
    settings = dataclasses.replace(recipe.settings, validation=HELD_OUT[recipe.dataset], **changes)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = training.train(
                recipe, settings, Execution(precision=precision), Path(folder) / "run", progress=False
            )
        except NonFiniteError:
            return ("diverged", 1.0) if recipe.dataset in REGRESSION else ("validation_accuracy", 0.0)
    metric = next(name for name in ("validation_accuracy", "validation_mse") if name in outcome.metrics)
    return metric, float(outcome.metrics[metric])


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not measured yet, and save after each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2, help="of each training (default 2)")
    parser.add_argument("--rates", type=_value, nargs="+", default=RATES, help="the grid")
    parser.add_argument("--field", default="learning_rate", help="the setting that the grid is of")
    parser.add_argument("--given", nargs="+", default=[], help="other settings of all of them: NAME=VALUE")
    parser.add_argument("--data", nargs="+", default=list(IMAGES), help="data sets (default all)")
    parser.add_argument("--networks", nargs="+", default=["mlp", "conv"], help="mlp, conv (default both)")
    parser.add_argument("--only", default="", help="recipes whose id holds this")
    parser.add_argument("--recipes", nargs="+", default=[], help="these instead, such as those of the blockwise rules")
    parser.add_argument("--precision", choices=["bf16", "float32"], default="bf16", help="of training (default bf16)")
    parser.add_argument("--targets", action="store_true", help="tpSGD's losses and targets in place of learning rates")
    parser.add_argument("--again", action="store_true", help="begin anew")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    rows = [] if options.again or not options.out.exists() else _read(options.out)
    given = {field: _value(value) for field, value in (one.split("=") for one in options.given)}
    trials: list[tuple[Recipe, dict[str, Any]]] = []
    if options.targets:
        found = find_recipe("tpsgd/mnist")
        trials = [
            (found, {"epochs": options.epochs, "local_loss": loss, "target_scale": scale})
            for loss in ("l2", "l1", "linear")
            for scale in (1.0, 2.0, 5.0)
        ]
    else:
        chosen = [recipe for data in options.data for recipe in recipes(data, options.networks)]
        if options.recipes:
            chosen = [find_recipe(recipe_id) for recipe_id in options.recipes]
        for recipe in [recipe for recipe in chosen if options.only in recipe.id]:
            own = getattr(recipe.settings, "epochs", None)  # a solver has none
            epochs = {} if own is None else {"epochs": own if recipe.dataset == "digits" else options.epochs}
            trials += [(recipe, epochs | given | {options.field: rate}) for rate in options.rates]
    for recipe, changes in trials:
        case = name(recipe, changes)
        if any(row.case == case for row in rows):
            continue
        metric, value = measure(recipe, changes, options.precision)
        print(f"{metric} {value:.4f}  {case}", flush=True)
        rows.append(Row(case, metric, value, "chance", None, None))
        write_results(options.out, environment(torch.device("cpu")), rows)


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _read(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_bytes())["rows"]]


if __name__ == "__main__":
    main()
