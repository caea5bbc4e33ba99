"""Makes the table of the perturbative rules in docs/benchmarks.md from `perturbation_step.json`.

    python benchmarks/perturbation_report.py

A line for every row that stands beside a peer. `make tables` calls this.
"""

from __future__ import annotations

import json
from pathlib import Path

from beyondprop.report.markdown import markdown_table
from signals_report import RESULTS, write


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Make the table, by the name that its markers carry."""
    heads = ("Step", "Beside", "Metric", "Ours", "Theirs", "Ratio")
    cells = [
        (
            row["case"].partition(": ")[2],
            row["peer"],
            row["metric"].replace("_", " "),
            *(f"{row[side]:,.0f}" if row[side] >= 100 else f"{row[side]:.3g}" for side in ("ours", "peer_value")),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        )
        for row in json.loads((results / "perturbation_step.json").read_bytes())["rows"]
        if row["peer_value"] is not None
    ]
    return {"perturbation-peers": markdown_table(heads, cells, left=heads[:3])}


if __name__ == "__main__":
    write(tables())
