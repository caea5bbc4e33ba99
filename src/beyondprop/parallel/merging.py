"""One finished run from those of all processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from beyondprop.data import Splits
from beyondprop.errors import RunError
from beyondprop.parallel.place import Place
from beyondprop.parallel.seeds import evaluates
from beyondprop.parallel.share import combine, part_of
from beyondprop.training import checkpoint
from beyondprop.training.assembly import assemble_stored
from beyondprop.training.checkpoint import Checkpoint
from beyondprop.training.random_state import RandomState
from beyondprop.training.run_folder import (
    METRICS,
    RANK,
    RESULT,
    RunFolder,
    is_in_use,
    read_settings,
    refuse_other_settings,
)
from beyondprop.training.runs import Outcome, outcome_of, use_processor, write_outcome
from beyondprop.training.tracking import LOSSES


class Part(NamedTuple):
    """What one process has left in its run folder."""

    settings: dict[str, Any]
    result: dict[str, Any]
    metrics: list[dict[str, Any]]
    checkpoint: Checkpoint


def rank_folder(folder: str | os.PathLike[str], rank: int) -> Path:
    """Where the process of a rank trains."""
    return Path(folder) / f"rank-{rank}"


def merge(folder: str | os.PathLike[str], *, splits: Splits | None = None) -> Outcome:
    """Put the parts in `folder/rank-*` together, measure the whole and make `folder` a finished run.

    Its loss is the sum of the parts' losses; its time that of the slowest. Called again, it gives the outcome at once.

    Args:
        folder: In which `beyondprop.parallel.train` has trained every part; parts from other machines are copied there.
        splits: The data; by default what the recipe names.

    Raises:
        RunError: A part is missing, unfinished, damaged or of another run.
    """
    path = Path(folder)
    parts = _read_parts(path)
    first = parts[0].settings
    about = {name: first[name] for name in ("recipe", "settings", "execution", "ranks", "data_parallel")}
    with RunFolder(path, about, resume=True) as run, use_processor(first["execution"]["threads"]):
        if run.result is None:
            built = assemble_stored(path, first, splits=splits)
            places = [Place(rank=k, ranks=len(parts), replicas=first["data_parallel"]) for k in range(len(parts))]
            states = [part.checkpoint.model for part in parts]
            combine(built.rule, [part_of(built.rule, p, s) for p, s in zip(places, states, strict=True)])
            if run.checkpoint is None:
                same = len(parts) if evaluates(built.rule) else first["data_parallel"]
                run.append_metrics(_joint_metrics(parts, same))
                run.save_checkpoint(parts[0].checkpoint.step, built.rule, {"stage": parts[0].checkpoint.state["stage"]})
            # What is drawn to predict follows the draws of the training, as in one process.
            RandomState(built.device, None).set(parts[0].checkpoint.state["random"])
            write_outcome(run, built, _joint_cost(parts))
        return outcome_of(run)


def _read_parts(path: Path) -> list[Part]:
    found = sorted(p for p in path.iterdir() if RANK.fullmatch(p.name)) if path.is_dir() else []
    if not found:
        raise RunError(f"{path} holds no parts of a run (rank-0, rank-1, ...): train them first")
    wanted = {name: value for name, value in read_settings(found[0]).items() if name not in ("commits", "versions")}
    if "ranks" not in wanted:
        raise RunError(f"{found[0]} holds no part of a run, but a whole one")
    stored = _read_finished(path, wanted)
    parts = []
    for rank, settings in enumerate(stored):
        own = rank_folder(path, rank)
        saved = checkpoint.load(own)
        if saved is None:
            raise RunError(f"{path}: rank {rank} has no checkpoint: restore it, or train anew elsewhere")
        try:
            result = json.loads((own / RESULT).read_bytes())
            metrics = [json.loads(line) for line in (own / METRICS).read_bytes().splitlines()]
        except (OSError, ValueError) as error:
            raise RunError(f"{own} cannot be read ({error}): restore it, or train anew elsewhere") from error
        parts.append(Part(settings, result, metrics, saved))
    return parts


def _read_finished(path: Path, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of all parts; refuses, all at once, those that are not there or have not finished."""
    stored: list[dict[str, Any]] = []
    lacking: dict[str, list[str]] = {}
    for rank in range(wanted["ranks"]):
        own, state = rank_folder(path, rank), None
        if own.is_dir():
            stored.append(read_settings(own))
            refuse_other_settings(own, {**wanted, "rank": rank}, stored[-1])
            if not (own / RESULT).exists():
                state = "still training" if is_in_use(own) else "stopped before the end (resume)"
        else:
            state = "missing (train, or copy the folder here)"
        if state is not None:
            lacking.setdefault(state, []).append(str(rank))
    if lacking:
        told = "; ".join(f"rank {', '.join(ranks)} {state}" for state, ranks in lacking.items())
        raise RunError(f"{path}: not all {wanted['ranks']} parts have finished: {told}")
    return stored


def _joint_metrics(parts: list[Part], replicas: int) -> list[dict[str, Any]]:
    """The parts' records in one: the loss is a sum over blocks, and a mean over processes that share them."""
    together = zip(*(part.metrics for part in parts), strict=False)
    return [
        records[0] | {name: sum(r[name] for r in records) / replicas for name in LOSSES if name in records[0]}
        for records in together
    ]


def _joint_cost(parts: list[Part]) -> dict[str, Any]:
    results = [part.result for part in parts]
    return {
        "train_seconds": max(result["train_seconds"] for result in results),
        "images_per_second": min(result["images_per_second"] for result in results),
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in results),
        "sent_bytes_per_step": [result["sent_bytes_per_step"] for result in results],
        "commits": list(dict.fromkeys(commit for part in parts for commit in part.settings["commits"])),
    }
