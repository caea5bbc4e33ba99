"""Several seeds of a recipe, and one result file that stands beside the paper's number."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from beyondprop import training
from beyondprop.checks import check, check_fields
from beyondprop.errors import UserError
from beyondprop.recipe import Recipe, SolverSettings
from beyondprop.report.results import read_result
from beyondprop.training.atomic import write_file
from beyondprop.training.execution import Execution

PRECISION = "precision "  # a departure that is none of the settings


def reproduce(
    recipe: Recipe,
    settings: SolverSettings | None = None,
    execution: Execution | None = None,
    *,
    seeds: int,
    results: Path = Path("results"),
    suffix: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[Path, dict[str, Any]]:
    """Train seeds 0..seeds-1 of a recipe, each in a run folder of its own, and write the result file.

    Called again after an interruption it goes on from the checkpoints; seeds that have finished are only read.

    Args:
        recipe: What is trained.
        settings: By default the recipe's own.
        execution: How; its seed is not used.
        seeds: How many, at least 1.
        results: Folder in which `ID/VARIANT.json` is written.
        suffix: Goes into the file's name, `ID/VARIANT-SUFFIX.json`; by default the embedding where it is another than
            the recipe's.
        overwrite: Whether the file may take the place of one with more seeds or more epochs.
        progress: Whether to show progress on stderr.

    Returns:
        The file's path and its content.

    Raises:
        UserError: A setting is out of range; the file holds more and `overwrite` is off; a folder cannot be used.
    """
    settings, execution = settings or recipe.settings, execution or Execution()
    check(seeds=seeds)
    check_fields(settings, execution)
    path = result_path(recipe, settings, results, suffix)
    _refuse_smaller(path, settings, seeds, overwrite)  # now, for what follows may take days
    make_folder(path.parent, "--results")
    outcomes = []
    for seed in range(seeds):
        folder = seed_folder(recipe, settings, execution, seed)
        seeded = replace(execution, seed=seed)
        outcomes.append(training.train(recipe, settings, seeded, folder, resume=True, progress=progress))
    document = _document(recipe, settings, execution, outcomes)
    _refuse_smaller(path, settings, seeds, overwrite)  # and again, for another process may have written meanwhile
    write_file(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    return path, document


def seed_folder(recipe: Recipe, settings: SolverSettings, execution: Execution, seed: int) -> Path:
    """Where `reproduce` trains a seed: other settings, or another precision, have another folder.

    Device and threads do not count: a run may go on at another place.
    """
    chosen = {"settings": asdict(settings), "precision": execution.precision, "channels_last": execution.channels_last}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()
    return runs_root() / recipe.id / f"reproduce-{digest[:10]}" / f"seed-{seed}"


def runs_root() -> Path:
    """The folder under which run folders stand: `$BEYONDPROP_RUNS`, or a folder in the user's cache."""
    chosen = os.environ.get("BEYONDPROP_RUNS")
    if chosen:
        return Path(chosen).expanduser()
    import pooch  # noqa: PLC0415  # takes a while, and is seldom needed

    return Path(pooch.os_cache("beyondprop")) / "runs"


def result_path(recipe: Recipe, settings: SolverSettings, results: Path, suffix: str | None) -> Path:
    """Name the result file.

    Raises:
        UserError: The suffix is not made of letters, digits, dots, dashes and underscores.
    """
    if suffix is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", suffix):
        raise UserError(f"--suffix must be made of letters, digits, dots, dashes and underscores, not {suffix!r}")
    embedding = getattr(settings, "embedding", None)
    if suffix is None and embedding != getattr(recipe.settings, "embedding", None):
        suffix = embedding
    return results / f"{recipe.id}{f'-{suffix}' if suffix else ''}.json"


def _refuse_smaller(path: Path, settings: SolverSettings, seeds: int, overwrite: bool) -> None:
    if overwrite or not path.exists():
        return
    present = read_result(path)
    for what, there, wanted in (
        ("seeds", len(present["seeds"]), seeds),
        ("epochs", present["settings"].get("epochs", 1), getattr(settings, "epochs", 1)),
    ):
        if there > wanted:
            raise UserError(f"{path} holds a result of {there} {what}, more than {wanted}: overwrite it with --replace")


def make_folder(folder: Path, flag: str) -> None:
    """Make a folder for results, which a flag of the command line names.

    Raises:
        UserError: It cannot be made, or not written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}): choose another by {flag}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into the folder {folder}: choose another by {flag}")


def beside_the_paper(recipe: Recipe, settings: SolverSettings, precision: str) -> dict[str, Any]:
    """What a result file says of the paper: `departures` from it, and `paper`, its figures and their source or None."""
    published = recipe.paper(settings)
    departures = recipe.departures_of(settings)
    if precision != Execution.precision:
        departures.append(f"{PRECISION}{precision}")
    return {
        "departures": departures,
        "paper": {**published.values, "source": published.source} if published else None,
    }


def _document(recipe: Recipe, settings: SolverSettings, execution: Execution, outcomes: list[Any]) -> dict[str, Any]:
    paper = beside_the_paper(recipe, settings, execution.precision)
    return {
        "recipe": recipe.id,
        "settings": asdict(settings),
        "departures": paper["departures"],
        "seeds": list(range(len(outcomes))),
        "metrics": {name: spread([outcome.metrics[name] for outcome in outcomes]) for name in outcomes[0].metrics},
        "paper": paper["paper"],
        "cost": {
            "train_seconds": statistics.fmean(outcome.train_seconds for outcome in outcomes),
            "images_per_second": statistics.fmean(outcome.images_per_second for outcome in outcomes),
            "peak_memory_bytes": max(outcome.peak_memory_bytes for outcome in outcomes),
        },
        "environment": environment_of(outcomes),
    }


def environment_of(outcomes: list[Any]) -> dict[str, Any]:
    """Where the seeds were trained, as their run folders tell: some may have been trained long before, elsewhere."""
    runs = [json.loads((Path(outcome.folder) / "result.json").read_bytes()) for outcome in outcomes]
    commits = list(dict.fromkeys(commit for outcome in outcomes for commit in outcome.commits))
    processors = list(dict.fromkeys(run["cpu"] for run in runs if "cpu" in run))  # older runs have not noted theirs
    return {
        "commit": commits[-1] if commits else None,
        "commits": commits,
        "versions": {**runs[-1]["versions"], "python": platform.python_version()},
        "device": ", ".join(dict.fromkeys(run["device"] for run in runs)),
        "threads": runs[-1]["threads"],
        **({"cpu": ", ".join(processors)} if processors else {}),
    }


def spread(values: list[Any]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds, element by element where the values are lists.

    A seed that has no figure (None) is left out of both; they are None where no seed has one.

    >>> spread([0.25, 0.75])["mean"], spread([[0.5, 1.0], [0.5, 0.0]])["mean"], spread([0.5])["std"]
    (0.5, [0.5, 0.5], 0.0)
    >>> spread([[None, 0.25], [None, None]])["mean"]
    [None, 0.25]
    """
    if isinstance(values[0], list):
        columns = [spread(list(column)) for column in zip(*values, strict=True)]
        return {"values": values, "mean": [c["mean"] for c in columns], "std": [c["std"] for c in columns]}
    known = [value for value in values if value is not None]
    if not known:
        return {"values": values, "mean": None, "std": None}
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return {"values": values, "mean": statistics.fmean(known), "std": deviation}
