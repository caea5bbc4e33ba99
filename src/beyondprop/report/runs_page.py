"""What a folder of runs holds: a table for the terminal, and a page with every run's curves."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beyondprop.catalogue import find_recipe
from beyondprop.errors import RunError, UserError
from beyondprop.report.changes import changed_flags
from beyondprop.report.figures import in_figures
from beyondprop.report.page import head, image, table
from beyondprop.training.run_folder import CURVES, RESULT, SETTINGS, read_metrics, read_result, read_settings

HEADS = ("Run", "Recipe", "Seed", "State", "Test", "Held out", "Epochs", "Training", "Changed settings")
LEADING = ("test_accuracy", "test_mse", "network_objective", "nll", "edge_auc")  # one of them stands in the table


@dataclass(frozen=True)
class Run:
    """One run folder, as it is.

    Attributes:
        path: Where.
        settings: As it stores them.
        result: As it stores it; None while it is not finished.
        records: Of its metrics.
        curves: Its picture, or None.
        damaged: Why it cannot be read; the rest of the table does not suffer from it.
    """

    path: Path
    settings: dict[str, Any]
    result: dict[str, Any] | None
    records: list[dict[str, Any]]
    curves: bytes | None
    damaged: str = ""


def find_runs(folder: Path) -> list[Run]:
    """Read every run folder in and below a folder, in the order of their paths.

    Raises:
        UserError: There is none.
    """
    folder = folder.resolve()
    runs = [_read(path.parent) for path in sorted(folder.rglob(SETTINGS))]
    if not runs:
        raise UserError(
            f"{folder} holds no run, comparison or result: name a folder that `beyondprop train`, `compare` or "
            "`reproduce` has written, or one above such"
        )
    return runs


def runs_rows(runs: Sequence[Run], root: Path) -> list[tuple[str, ...]]:
    """Rows of a table with the heads of `HEADS`."""
    return [_row(run, root.resolve()) for run in runs]


def write_runs_page(runs: Sequence[Run], root: Path) -> str:
    """Write a page that holds everything in itself: the table, and each run's curves and settings."""
    parts, root = [], root.resolve()
    for run in runs:
        name = _name(run, root)
        picture = "" if run.curves is None else image({"curves": run.curves}, "curves", f"Curves of {name}")
        chosen = run.settings.get("settings", {})
        metrics = {} if run.result is None else run.result["metrics"]
        parts.append(
            f"<h2>{html.escape(name)}</h2>{picture}"
            f"<details><summary>Settings</summary>{_listed(chosen)}</details>"
            + (f"<details><summary>Metrics</summary>{_listed(metrics)}</details>" if metrics else "")
        )
    return f"{head(f'Runs in {root.name}')}{table(HEADS, runs_rows(runs, root))}{''.join(parts)}</html>\n"


def _read(path: Path) -> Run:
    settings: dict[str, Any] = {}
    try:
        curves = (path / CURVES).read_bytes() if (path / CURVES).exists() else None
        settings = read_settings(path)  # a damaged run is told by these, where they are whole
        records, result = read_metrics(path), read_result(path)
        if result is not None and not result.keys() >= {"metrics", "train_seconds"}:
            raise RunError(f"{path / RESULT} is no result: remove it and resume")
    except (OSError, RunError) as error:
        return Run(path, settings, None, [], None, damaged=str(error))
    return Run(path, settings, result, records, curves)


def _row(run: Run, root: Path) -> tuple[str, ...]:
    epochs = [record for record in run.records if "seconds" in record]
    metrics = run.result["metrics"] if run.result else {}
    leading = next((name for name in LEADING if name in metrics), None)
    held_out = metrics.get("validation_accuracy") or (epochs[-1].get("validation_accuracy") if epochs else None)
    seconds = run.result["train_seconds"] if run.result else epochs[-1]["seconds"] if epochs else None
    return (
        _name(run, root),
        str(run.settings.get("recipe", "–")),
        str(run.settings.get("execution", {}).get("seed", "–")),
        _state(run),
        "–" if leading is None else in_figures(leading, metrics[leading]),
        "–" if held_out is None else in_figures("accuracy", held_out),
        str(epochs[-1]["epoch"]) if epochs else "–",
        "–" if seconds is None else f"{seconds:.3g} s",
        _changed(run.settings),
    )


def _state(run: Run) -> str:
    if run.damaged:
        return f"damaged ({run.damaged})"
    if run.result:
        return "finished"
    return "unfinished" if "recipe" in run.settings else "–"  # a loop of one's own does not tell that it has ended


def _changed(settings: Mapping[str, Any]) -> str:
    """What tells a run from others of its recipe, whose folders may have numbers for names."""
    try:
        recipe = find_recipe(settings["recipe"])
    except (KeyError, UserError):  # of a loop of one's own, or of a recipe that is gone
        return ""
    chosen = settings.get("settings")
    return changed_flags(chosen, asdict(recipe.settings)) if isinstance(chosen, dict) else ""


def _name(run: Run, root: Path) -> str:
    return str(run.path.relative_to(root)) if run.path != root else root.name


def _listed(values: Mapping[str, Any]) -> str:
    return table(["", ""], [[name, str(value)] for name, value in values.items()], text=[1])
