"""Accuracy against the time constant of the membrane, with several spikes a neuron and with one.

    python benchmarks/spike_time_constant.py
    python benchmarks/spike_time_constant.py --recipe spike-timing/mnist --spikes 30 --set code=count output_spikes=30

arXiv 2211.16113 tells of a time constant at which accuracy is best where neurons may spike several times, and of none
where they spike once. Here a recipe is trained with each time constant (tau_s stays, tau_m = 0 stands for no leak) and
each seed, twice: with up to `--spikes` spikes of a hidden neuron, and with one, as control. All other settings are the
recipe's, or those of `--set`, on both sides; batches are small, so that few images make many steps.

Part of the training split is held out, by the seed; accuracy and the hidden neurons' spikes are measured on that part,
and training takes `--images` of the rest. The test split is not looked at. Rows have a training a line, several spikes
beside one; what was measured before is not measured again, so that a call that is interrupted goes on where it stopped,
and `--again` begins anew. `spiking_report.py` makes text, table and picture of them.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import Row, compare, environment, write_results
from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.data import Splits, hold_out
from beyondprop.layers.spiking.linear import SpikingLinear
from beyondprop.recipe import Recipe
from beyondprop.training.assembly import assemble, make_scheduler
from beyondprop.training.execution import Execution
from beyondprop.training.runs import use_processor

OUT = Path(__file__).resolve().parent / "results" / "spike_time_constant.json"
TAUS = (0.5, 1.0, 2.0, 4.0, 8.0, 0.0)
CONTROL = "one spike a neuron"


def data_of(recipe: Recipe, settings: Any, seed: int, images: int, held_out: int) -> Splits:
    """Part of the training images to train on, and other ones in the place of the test images."""
    rest, held = hold_out(recipe.make_data(settings, seed).train, held_out, seed=seed)
    if images and images < len(rest):
        rest = hold_out(rest, images, seed=seed)[1]
    return Splits(rest, held)


def measure(recipe: Recipe, settings: Any, execution: Execution, splits: Splits) -> tuple[float, float]:
    """Train once; return the accuracy on held-out images, and how many hidden spikes one of them makes."""
    built = assemble(recipe, settings, execution, splits)
    optimizer, batches = built.experiment.optimizer, built.batches(splits.train, training=True)
    scheduler = make_scheduler(optimizer, settings.lr_schedule, len(batches) * settings.epochs)
    training.fit(built.rule, batches, optimizer=optimizer, epochs=settings.epochs, scheduler=scheduler, progress=False)
    return looked_at(built.rule.network.eval(), built.batches(splits.test))


def looked_at(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The share of samples whose class is right, and the spikes of hidden neurons that one makes, in one pass."""
    layers = list(network.children())
    hidden = [layer for layer in layers if isinstance(layer, SpikingLinear)][:-1]
    right = spikes = samples = 0
    with torch.no_grad():
        for x, y in batches:
            found = x
            for layer in layers:
                found = layer(found)
                spikes += int(found.isfinite().sum()) if layer in hidden else 0
            right += int((found.argmax(1) == y).sum())
            samples += len(y)
    return right / samples, spikes / samples


def given(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings from the command line, by name."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train what is not measured yet, and save after each pair of trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="spike-timing/mnist", help="default spike-timing/mnist")
    parser.add_argument("--spikes", type=int, default=4, help="most of a hidden neuron (default 4)")
    parser.add_argument("--tau-m", type=float, nargs="+", default=TAUS, help="0 for no leak")
    parser.add_argument("--seeds", type=int, default=2, help="how many (default 2)")
    parser.add_argument("--epochs", type=int, default=2, help="of each training (default 2)")
    parser.add_argument("--batch-size", type=int, default=32, help="of each training (default 32)")
    parser.add_argument("--images", type=int, default=18_000, help="to train on (default 18,000; 0 for all)")
    parser.add_argument("--held-out", type=int, default=10_000, help="to measure on (default 10,000)")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="further settings of both sides")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default 1)")
    parser.add_argument("--again", action="store_true", help="begin anew")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.spikes < 2 or options.seeds < 1:
        parser.error("--spikes must be at least 2, and --seeds at least 1")
    torch.set_num_threads(options.threads)
    recipe = find_recipe(options.recipe)
    about = f"{options.images or 'all'} images, {options.epochs} epochs, batch {options.batch_size}"
    about = ", ".join([about, *options.set])
    rows = [] if options.again or not options.out.exists() else _read(options.out)
    for seed in range(options.seeds):
        execution = Execution(seed=seed, device="cpu")
        for tau_m in options.tau_m:
            case = f"{recipe.id}, up to {options.spikes} spikes, tau_m {tau_m or 'infinite'}, {about}, seed {seed}"
            if any(row.case == case for row in rows):
                continue
            changes = {"epochs": options.epochs, "batch_size": options.batch_size, "tau_m": tau_m, "validation": 0}
            settings: Any = replace(recipe.settings, **{**changes, **given(options.set)})
            splits = data_of(recipe, settings, seed, options.images, options.held_out)
            with use_processor(options.threads):
                several, one = (
                    measure(recipe, replace(settings, spikes=count), execution, splits) for count in (options.spikes, 1)
                )
            print(f"{several[0]:.4f}, one spike {one[0]:.4f}  {case}", flush=True)
            for place, metric in enumerate(("validation_accuracy", "hidden_spikes")):
                found = several[place], CONTROL, one[place]
                rows.append(compare(case, metric, *found, less_is_better=metric == "hidden_spikes"))
            write_results(options.out, environment(torch.device("cpu")), rows)


def _read(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_bytes())["rows"]]


if __name__ == "__main__":
    main()
