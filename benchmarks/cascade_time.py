"""How long Cascaded Forward trains beside back-propagation end to end through the same network.

    python benchmarks/cascade_time.py --threads 2

Each recipe is trained once, from nothing, with the settings that it has, one after another on a machine that does
nothing else: the closed form (`cafo/DATA-mse`), the predictors that are stepped (`cafo/DATA`) and back-propagation
(`bp/DATA-cafo`). 10,000 training images are held out; the accuracy written down is theirs, and no choice is made by it.
Seconds are those of training steps, without evaluation. A rule that trains fast and ends low may yet be slower to what
it reaches: so the file also says after how many seconds back-propagation had first passed each one's accuracy, at the
end of one of its epochs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from _timing import Row, compare, environment, write_results
from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.training.execution import Execution

OUT = Path(__file__).resolve().parent / "results" / "cascade_time.json"


@dataclasses.dataclass(frozen=True)
class Trained:
    """One training: its seconds, and the accuracy on held-out images at the end and after each epoch."""

    seconds: float
    accuracy: float
    epochs: list[float]


def train(recipe_id: str, held_out: int, precision: str, epochs: int | None) -> Trained:
    """Train a recipe once."""
    recipe = find_recipe(recipe_id)
    changes = {"validation": held_out} | ({"epochs": epochs} if epochs and hasattr(recipe.settings, "epochs") else {})
    settings = dataclasses.replace(recipe.settings, **changes)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        outcome = training.train(recipe, settings, Execution(precision=precision), run, progress=False)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seen = [float(line["validation_accuracy"]) for line in lines if "validation_accuracy" in line]
    return Trained(outcome.train_seconds, float(outcome.metrics["validation_accuracy"]), seen)


def passed_after(baseline: Trained, accuracy: float) -> float | None:
    """Seconds until a training had first reached an accuracy, at the end of an epoch; None if it never did."""
    reached = [number for number, value in enumerate(baseline.epochs, 1) if value >= accuracy]
    return baseline.seconds * reached[0] / len(baseline.epochs) if reached else None


def compared(found: dict[str, Trained], baseline: str, case: str) -> list[Row]:
    """Rows of every training beside one of them."""
    other, rows = found[baseline], []
    for name, one in found.items():
        if name == baseline:
            continue
        label = f"{name}, {case}"
        rows += [
            compare(label, "train_seconds", one.seconds, baseline, other.seconds, less_is_better=True),
            compare(label, "validation_accuracy", one.accuracy, baseline, other.accuracy, less_is_better=False),
            compare(
                label,
                "seconds_to_the_same_accuracy",
                one.seconds,
                baseline,
                passed_after(other, one.accuracy),
                less_is_better=True,
            ),
        ]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Train all, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar-10", help="of the recipes (default cifar-10)")
    parser.add_argument("--precision", default="bf16", help="float32 or bf16 (default)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--held-out", type=int, default=10_000, help="training images (default 10,000)")
    parser.add_argument("--epochs", type=int, help="in place of the recipes' own, for a trial")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    baseline = f"bp/{options.data}-cafo"
    found = {}
    for name in (f"cafo/{options.data}-mse", f"cafo/{options.data}", baseline):
        found[name] = train(name, options.held_out, options.precision, options.epochs)
        print(f"{name}: {found[name].seconds:.1f} s, {100 * found[name].accuracy:.2f} %", flush=True)
    threads = "thread" if options.threads == 1 else "threads"
    case = f"{options.threads} {threads}, {options.precision}"
    write_results(options.out, environment(torch.device("cpu")), compared(found, baseline, case))


if __name__ == "__main__":
    main()
