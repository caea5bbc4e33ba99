"""Measures what our variation of sDFA, signs centred over the classes, does to accuracy and stability.

    python benchmarks/centred_signs.py --seeds 5 digits mnist

For each data set trains `sdfa/NAME`, `sdfa/NAME-centred` and `dfa/NAME` by `beyondprop study` and writes
`benchmarks/results/centred_signs.json`: `ours` is the variation, the peers are sDFA as it was published and DFA, which
sends the whole error. All settings but the centring are the same; learning rates are those of the recipes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from _timing import compare, environment, write_results
from beyondprop.catalogue import find_recipe
from beyondprop.study import study
from beyondprop.training.execution import Execution

METRICS = {"test_accuracy": False, "churn": True, "kappa": False}  # whether less is better


def main() -> None:
    """Run the studies, print the comparison and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", choices=["digits", "mnist", "fashion-mnist", "cifar-10"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="by default the recipes'")
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="folder of the studies themselves")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "centred_signs.json")
    arguments = parser.parse_args()
    execution = Execution(device="cpu", threads=torch.get_num_threads())
    changed = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    rows = []
    for data in arguments.data:
        ours, *peers = (f"sdfa/{data}-centred", f"sdfa/{data}", f"dfa/{data}")
        recipes = [find_recipe(name) for name in (ours, *peers)]
        out = arguments.studies / data
        found = study(recipes, changed, execution, seeds=arguments.seeds, out=out, progress=False, tell=print)
        epochs = found["settings"][ours]["epochs"]
        figures = {
            name: {"test_accuracy": found["accuracy"][name]["mean"]}
            | {metric: spread["mean"] for metric, spread in found["stability"][name].items()}
            for name in found["recipes"]
        }
        rows += [
            compare(
                f"{ours}, {epochs} epochs, {arguments.seeds} seeds",
                metric,
                figures[ours][metric],
                peer,
                figures[peer][metric],
                less_is_better=less,
            )
            for metric, less in METRICS.items()
            for peer in peers
        ]
    for row in rows:
        print(f"{row.case}: {row.metric} {row.ours:.4f}, {row.peer} {row.peer_value:.4f}")
    write_results(arguments.out, environment(torch.device("cpu")), rows)


if __name__ == "__main__":
    main()
