"""Makes the tables of the rules of teaching signals in docs/benchmarks.md from their result files.

    python benchmarks/signals_report.py

`signals_step.json` has a row for each rule, network, precision and peer, the table a line a rule and network, in
float32; `targets_step.json` likewise, of which the table has both precisions; `proximal_steps.json` has a row for each
pair and figure, the table a line a rule. `make tables` calls this.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from beyondprop.report.markdown import markdown_table
from beyondprop.report.tables import regenerate
from beyondprop.training.atomic import write_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
BP = "back-propagation by plain autograd"
PEERS = {"ChFrenkel": "DirectRandomTargetProjection", "jsalbert": "biotorch"}
HEADS = ("Network", "Rule", "Images per second", "Beside back-propagation", *PEERS.values())


Rows = list[dict[str, Any]]


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Make all tables, by the names that their markers carry."""
    steps, proximal, targets = (
        json.loads((results / f"{name}.json").read_bytes())["rows"]
        for name in ("signals_step", "proximal_steps", "targets_step")
    )
    return {
        "signals-step": speed_table(steps),
        "signals-memory": memory_table(steps),
        "proximal-steps": proximal_table(proximal),
        "targets-step": targets_table(targets),
    }


def speed_table(rows: Rows) -> str:
    """One line a network and rule: its speed, and the ratios; two of a peer, as it is and with equal switches."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        case = re.fullmatch(r"(.*) step, (.*), batch (\d+), \d+ threads?, float32(, the peer .*)?", row["case"])
        if case is None or row["metric"] != "images_per_second" or row["ratio"] is None:
            continue
        line = found.setdefault((f"{case[2]}, batch {case[3]}", case[1]), {"speed": row["ours"]})
        peer = BP if row["peer"] == BP else PEERS[row["peer"].split("/")[0]]
        line.setdefault(peer, []).append(f"{row['ratio']:.2f}")
    cells = [
        (network, rule, f"{line['speed']:,.0f}", *(" / ".join(line.get(peer, [])) for peer in (BP, *PEERS.values())))
        for (network, rule), line in found.items()
    ]
    return markdown_table(HEADS, cells, left=HEADS[:2])


def memory_table(rows: Rows, rules: tuple[str, ...] = ("drtp", "tpsgd")) -> str:
    """One line a depth: megabytes of activations, and of what is saved for backward; back-propagation, then `rules`."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        case = re.match(r"([\w-]+) backward, (\d+) hidden layers", row["case"])
        if case is not None:
            line = found.setdefault(int(case[2]), {})
            line[f"{case[1]} {row['metric']}"] = row["ours"]
            line[f"bp {row['metric']}"] = row["peer_value"]
    heads = ["Hidden layers"]
    keys = []
    for metric, words in (("peak_activation_bytes", "live"), ("peak_saved_for_backward_bytes", "saved")):
        for rule in ("bp", *rules):
            heads.append(f"`{rule}`, MB {words}")
            keys.append(f"{rule} {metric}")
    cells = [(str(depth), *(f"{line[key] / 1e6:.2f}" for key in keys)) for depth, line in sorted(found.items())]
    return markdown_table(heads, cells, left=())


def proximal_table(rows: Rows) -> str:
    """One line a rule: its steps, "at least" where they end the grid, and its accuracy at equal epochs and time."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        moment, name = re.sub(r"^mnist, perceptron with \w+, ", "", row["case"]).split(": ")
        key = f"{moment.split()[-1]} {row['metric']}"  # "epochs", "time", "training" or "trials", and the figure
        found.setdefault(name, {})[key] = row["ours"]
        if row["peer_value"] is not None:
            found.setdefault(row["peer"], {})[key] = row["peer_value"]
    heads = (
        "Rule",
        "Step",
        "Largest stable step",
        "Held out, equal epochs, %",
        "Test, equal epochs, %",
        "Test, equal time, %",
        "Images per second",
    )
    keys = ("epochs validation_accuracy", "epochs test_accuracy", "time test_accuracy")
    cells = [
        (
            name,
            *(_step(line, which) for which in ("chosen_step", "largest_stable_step")),
            *(f"{100 * line[key]:.2f}" for key in keys),
            f"{line['training images_per_second']:,.0f}",
        )
        for name, line in found.items()
        if "trials chosen_step" in line
    ]
    return markdown_table(heads, cells, left=heads[:1])


def targets_table(rows: Rows) -> str:
    """One line a network and rule: its time, ratios to the peer as it is and fused, and the steps of BP it takes."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        case = re.fullmatch(r"(.*) step, (.*, batch \d+), \d+ threads?, (float\d+)(, the peer .*)?", row["case"])
        if case is None or row["ratio"] is None:
            continue
        line, precision = found.setdefault((case[2], case[1]), {}), case[3]
        line[f"{precision} time"] = f"{1000 * row['ours']:.1f}"
        if case[4]:
            key = f"{precision} peer"
            line[key] = f"{line[key]} / {row['ratio']:.2f}" if key in line else f"{row['ratio']:.2f}"
        else:
            line[f"{precision} steps"] = f"{1 / row['ratio']:.2f}"
    columns = {"time": "ms", "peer": "beside the authors' code", "steps": "steps of BP"}
    keys = [f"{precision} {kind}" for precision in ("float64", "float32") for kind in columns]
    heads = ("Network", "Rule", *(f"{key.split()[0]}, {columns[key.split()[1]]}" for key in keys))
    cells = [(network, rule, *(line.get(key, "") for key in keys)) for (network, rule), line in found.items()]
    return markdown_table(heads, cells, left=heads[:2])


def _step(line: dict[str, float], which: str) -> str:
    step = line[f"trials {which}"]
    ends = step >= line.get("trials largest_tried_step", math.inf)  # files without that row do not tell
    return f"at least {step:.3g}" if ends else f"{step:.3g}"


def write(made: dict[str, str], page: Path = PAGE) -> None:
    """Write tables anew, by the names that their markers carry."""
    before = page.read_text(encoding="utf-8")
    after = regenerate(before, made)
    if after != before:
        write_file(page, after.encode())


if __name__ == "__main__":
    write(tables())
