"""What the result files say of NoProp, in the form in which it is drawn and tabulated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from _noprop_cases import OUT
from beyondprop.report.results import read_results

ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, Any]


class Figures:
    """What the result files say, in the form in which it is drawn and tabulated.

    Args:
        theory: The result file of `noprop_theory.py`.
        results: Folder of the files of `beyondprop reproduce`.
    """

    def __init__(self, theory: Path = OUT, results: Path = ROOT / "results") -> None:
        self.rows: list[Row] = json.loads(theory.read_bytes())["rows"]
        self.results = [each for each in read_results(results) if each["recipe"].startswith("noprop-")]

    def steps(self) -> dict[str, dict[str, dict[int, float]]]:
        """Accuracy on held-out digits: system, then way or setting, then steps."""
        return self._by_steps("validation_accuracy")

    def distances(self) -> dict[str, dict[str, dict[int, float]]]:
        """What the steps leave unsolved, in the same form."""
        return self._by_steps("distance_to_solution")

    def _by_steps(self, name: str) -> dict[str, dict[str, dict[int, float]]]:
        found: dict[str, dict[str, dict[int, float]]] = {}
        for row in self.rows:
            case = re.fullmatch(r"(noprop-\w+)/digits, .* seeds, (.*)", row["case"])
            metric = re.fullmatch(rf"{name}_in_(\d+)_steps", row["metric"])
            if case and metric:
                found.setdefault(case[1], {}).setdefault(case[2], {})[int(metric[1])] = row["ours"]
        return found

    def lowest(self, system: str, setting: str, steps: int) -> tuple[float, float]:
        """The worst seed's accuracy with a setting, and with the recipe's own."""
        metric = f"lowest_validation_accuracy_in_{steps}_steps"
        (row,) = (
            row
            for row in self.rows
            if row["case"].startswith(f"{system}/digits") and row["case"].endswith(f", {setting}")
            if row["metric"] == metric
        )
        return row["ours"], row["peer_value"]

    def step_costs(self) -> dict[str, dict[str, float]]:
        """What a training step costs: side, then metric."""
        found: dict[str, dict[str, float]] = {}
        for row in self.rows:
            if "training step" in row["case"]:
                found.setdefault(row["case"].split(":")[0], {})[row["metric"]] = row["ours"]
                found.setdefault(row["peer"], {})[row["metric"]] = row["peer_value"]
        return found

    def predictions(self) -> list[tuple[str, str, float, float]]:
        """What a prediction costs: system, steps, operations an image, those of the peer."""
        rows = [row for row in self.rows if ": prediction" in row["case"]]
        return [
            (row["case"].split(":")[0], row["case"].rsplit(", ", 1)[1], row["ours"], row["peer_value"]) for row in rows
        ]

    def chain(self) -> dict[tuple[str, int], dict[str, float]]:
        """Accuracy of eight blocks: what each sees and its width, then the way to read them."""
        found: dict[tuple[str, int], dict[str, float]] = {}
        for row in self.rows:
            case = re.match(r"8 blocks on digits, each sees (.*?), width (\d+)", row["case"])
            if case:
                ways = found.setdefault((case[1], int(case[2])), {"chain": row["ours"]})
                ways[row["peer"]] = row["peer_value"]
        return found

    def steps_on_test(self) -> dict[str, dict[str, dict[int, float]]]:
        """Accuracy on test images where a reproduction measured it: data set, then system, then steps."""
        found: dict[str, dict[str, dict[int, float]]] = {}
        for result in self.results:
            system, variant = result["recipe"].split("/")
            by_steps = {
                int(name.split("_")[-2]): metric["mean"]
                for name, metric in result["metrics"].items()
                if re.fullmatch(r"test_accuracy_in_\d+_steps", name)
            }
            if by_steps and result["file"].stem == variant:
                found.setdefault(variant, {})[system] = dict(sorted(by_steps.items()))
        return found

    def chains_on_test(self) -> dict[str, dict[str, float]]:
        """What the chain adds on test images where a reproduction measured it."""
        ways = ("test_accuracy_chain", "test_accuracy_mean_of_chain", "test_accuracy_blocks_alone_pooled")
        found = {}
        for result in self.results:
            metrics = result["metrics"]
            if "block_test_accuracy" in metrics:
                label = f"{result['recipe'].split('/')[0]}/{result['file'].stem}"
                blocks = metrics["block_test_accuracy"]["mean"]
                found[label] = {"first": blocks[0], "best": max(blocks), **{way: metrics[way]["mean"] for way in ways}}
        return found
