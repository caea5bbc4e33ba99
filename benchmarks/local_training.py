"""How long whole trainings by local rules take beside others on the same network.

    python benchmarks/local_training.py --threads 2
    python benchmarks/local_training.py --pairs symba/mnist-small:ff/mnist-small --epochs 15

Each recipe of a pair `RULE:BESIDE` is trained once, from nothing, with the settings that it has, one after another on a
machine that does nothing else. By default Cascaded Forward, its closed form and its predictors that are stepped, stands
beside back-propagation end to end through the same network, and SymBa beside Forward-Forward. 10,000 training images
are held out; the accuracy written down is theirs, and no choice is made by it. Seconds are those of training steps,
without evaluation.

A rule that trains fast and ends low may yet be slower to what it reaches. So the file also says when the other one had
first passed the rule's last accuracy, and when the rule had first passed the other's, in seconds and in epochs; both
are looked at after each epoch. Where one never did, the row has no value. Rows of other pairs stay in the result file.
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

OUT = Path(__file__).resolve().parent / "results" / "local_training.json"
PAIRS = (
    "cafo/cifar-10-mse:bp/cifar-10-cafo",
    "cafo/cifar-10:bp/cifar-10-cafo",
    "symba/mnist-small:ff/mnist-small",
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """One training: its seconds, and the accuracy on held-out images after each epoch (a solver has one)."""

    seconds: float
    accuracies: list[float]

    @property
    def accuracy(self) -> float:
        """The last."""
        return self.accuracies[-1]

    def epochs_to(self, accuracy: float) -> int | None:
        """Epochs until it had an accuracy; None if it never did."""
        return next((number for number, value in enumerate(self.accuracies, 1) if value >= accuracy), None)

    def seconds_to(self, accuracy: float) -> float | None:
        """Seconds until the end of that epoch."""
        epochs = self.epochs_to(accuracy)
        return None if epochs is None else self.seconds * epochs / len(self.accuracies)


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
    return Trained(outcome.train_seconds, seen or [float(outcome.metrics["validation_accuracy"])])


def compared(one: Trained, other: Trained, case: str, peer: str) -> list[Row]:
    """The rows of a pair."""
    rows = [
        compare(case, "train_seconds", one.seconds, peer, other.seconds, less_is_better=True),
        compare(case, "validation_accuracy", one.accuracy, peer, other.accuracy, less_is_better=False),
    ]
    for whose, accuracy in (("rule", one.accuracy), ("peer", other.accuracy)):
        for unit in ("seconds", "epochs"):
            ours, theirs = (getattr(side, f"{unit}_to")(accuracy) for side in (one, other))
            if ours is not None:
                metric = f"{unit}_to_the_{whose}s_accuracy"
                rows.append(compare(case, metric, ours, peer, theirs, less_is_better=True))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Train all, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, help="RULE:BESIDE, each a recipe")
    parser.add_argument("--precision", default="bf16", help="float32 or bf16 (default)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--held-out", type=int, default=10_000, help="training images (default 10,000)")
    parser.add_argument("--epochs", type=int, help="in place of the recipes' own")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: dict[str, Trained] = {}
    rows = [Row(**row) for row in json.loads(options.out.read_bytes())["rows"]] if options.out.exists() else []
    told = f"{options.threads} thread{'s' * (options.threads > 1)}, {options.precision}"
    told += f", {options.epochs} epochs" if options.epochs else ""
    for pair in options.pairs:
        ids = pair.split(":")
        for name in ids:
            if name not in found:
                found[name] = train(name, options.held_out, options.precision, options.epochs)
                print(f"{name}: {found[name].seconds:.1f} s, {100 * found[name].accuracy:.2f} %", flush=True)
        case = f"{ids[0]}, {told}"
        rows = [row for row in rows if (row.case, row.peer) != (case, ids[1])]
        rows += compared(found[ids[0]], found[ids[1]], case, ids[1])
        write_results(options.out, environment(torch.device("cpu")), rows)


if __name__ == "__main__":
    main()
