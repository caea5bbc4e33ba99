"""Makes the tables of the local rules in docs/benchmarks.md from their result files.

    python benchmarks/local_report.py

One of each method beside its peer, one of each rule beside back-propagation, one of memory at growing depth, and one of
whole trainings, from `local_training.json`. `make tables` calls this.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from beyondprop.report.markdown import markdown_table
from signals_report import BP, RESULTS, Rows, memory_table, write

PEERS = {"loeweX": "Forward-Forward", "dah33": "explore_forward_forward", "Graph-ZKY": "CaFo"}
DEEP = ("ff", "mono-forward", "predsim")
NOTES = ("the peer as it is", "the peer fused")
PUBLISHED = "the peer as published, in float32"
CASE = re.compile(
    r"(?P<method>.*) step(?P<loader>, with its loader)?, (?P<network>.*), batch (?P<batch>\d+)"
    r"(, \d+ threads?)?, (?P<precision>float32|bf16)(, (?P<note>the peer .*))?"
)


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Make all tables, by the names that their markers carry."""
    rows, whole = (
        json.loads((results / f"{name}.json").read_bytes())["rows"] for name in ("local_step", "local_training")
    )
    return {
        "local-peers": peer_table(rows),
        "local-rules": rule_table(rows),
        "local-memory": memory_table(rows, DEEP),
        "local-training": training_table(whole),
    }


def training_table(rows: Rows) -> str:
    """One line a training: its seconds and accuracy, the other's, and when each had passed the other's accuracy."""
    pairs: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        pairs.setdefault((row["case"], row["peer"]), {})[row["metric"]] = row
    heads = ("Training", "Beside", "Seconds", "Accuracy", "As accurate as the other", "The other as accurate")
    cells = []
    for (case, peer), found in pairs.items():
        seconds, accuracy = found["train_seconds"], found["validation_accuracy"]
        ours, theirs = (found.get(f"epochs_to_the_{whose}_accuracy", {}) for whose in ("peers", "rules"))
        cells.append(
            (
                case,
                peer,
                f"{seconds['ours']:.0f} / {seconds['peer_value']:.0f}",
                f"{100 * accuracy['ours']:.2f} / {100 * accuracy['peer_value']:.2f}",
                after(found.get("seconds_to_the_peers_accuracy", {}).get("ours"), ours.get("ours")),
                after(found.get("seconds_to_the_rules_accuracy", {}).get("peer_value"), theirs.get("peer_value")),
            )
        )
    return markdown_table(heads, cells, left=heads[:2])


def after(seconds: float | None, epochs: float | None) -> str:
    """How long something took; "never" where it did not happen."""
    return "never" if seconds is None or epochs is None else f"{seconds:.0f} s ({epochs:.0f} epochs)"


def peer_table(rows: Rows) -> str:
    """One line a step and precision: its speed, the ratios, and the share of what products alone reach."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        case = CASE.fullmatch(row["case"])
        if case is None or row["peer"] == BP or row["ratio"] is None:
            continue
        key = (f"{case['method']}{case['loader'] or ''}, {case['network']}, batch {case['batch']}", case["precision"])
        line = found.setdefault(key, {})
        if row["metric"].endswith("per_second"):
            line["peer"] = PEERS[row["peer"].split("/")[0]]
            line["speed"] = row["ours"]
            line[case["note"]] = f"{row['ratio']:.2f}"
        else:
            line[row["metric"]] = f"{row['ratio']:.2f}"
    heads = (
        "Step",
        "Precision",
        "Peer",
        "Images or steps a second",
        "Beside the peer",
        "Beside the peer as published",
        "Memory",
        "Share of products",
    )
    cells = [
        (
            *key,
            line["peer"],
            f"{line['speed']:,.0f}" if line["speed"] >= 100 else f"{line['speed']:.3g}",
            " / ".join(line[note] for note in NOTES if note in line),
            line.get(PUBLISHED, ""),
            line.get("peak_memory_bytes", ""),
            line.get("gigaflops", ""),
        )
        for key, line in found.items()
        if "peer" in line
    ]
    return markdown_table(heads, cells, left=heads[:3])


def rule_table(rows: Rows) -> str:
    """One line a network and rule: its speed, and speed and memory beside back-propagation."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        case = CASE.fullmatch(row["case"])
        if case is None or row["peer"] != BP:
            continue
        line = found.setdefault((f"{case['network']}, batch {case['batch']}", case["method"]), {})
        line[f"{case['precision']} {row['metric']}"] = f"{row['ratio']:.2f}"
        if row["metric"] == "images_per_second":
            line[f"{case['precision']} speed"] = f"{row['ours']:,.0f}"
    heads = ("Network", "Rule", "Images per second", "Beside BP", "Beside BP, bf16", "Memory", "Saved for backward")
    keys = (
        "float32 speed",
        "float32 images_per_second",
        "bf16 images_per_second",
        "float32 peak_memory_bytes",
        "float32 peak_saved_for_backward_bytes",
    )
    cells = [
        (*names, *(line.get(key, "nothing" if "saved" in key else "") for key in keys)) for names, line in found.items()
    ]
    return markdown_table(heads, cells, left=heads[:2])


if __name__ == "__main__":
    write(tables())
