"""From a finished run to a folder that can be shared: weights, description, model card."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from beyondprop.errors import RunError
from beyondprop.report.model_card import write_card
from beyondprop.training.assembly import LoadedRun, load_run, require_recipe
from beyondprop.training.atomic import disk_errors, write_folder
from beyondprop.training.checkpoint import safe_tensors
from beyondprop.training.exported import (
    ABOUT,
    FORMAT,
    WEIGHTS,
    describe,
    is_export,
    rebuild,
    refuse_outside,
    scores_of,
    table_of,
)
from beyondprop.training.run_folder import CURVES, RESULT, TRIAL, read_result, read_settings

CARD = "README.md"
STEPS = "steps.png"  # of `beyondprop evaluate --steps`
OURS = {ABOUT, WEIGHTS, CARD, CURVES, STEPS}
SAMPLES = 8  # on which a copy is compared with the run


def export_run(folder: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the trained rule of a run folder so that it can be shared.

    Before anything is written, the rule is built from what is to be written, without its data, and has to predict what
    the run's does, bit for bit.

    Args:
        folder: Of a run that has finished.
        out: A new or empty folder, or another export with `overwrite`.
        overwrite: Whether an export in `out` gives way.

    Returns:
        `out`.

    Raises:
        RunError: The folder holds no finished run; the rule cannot be described by its recipe, settings and weights;
            `out` holds something else; the disk refuses.
        UserError: The recipe, or its data, are not there.
    """
    source, target = Path(folder), Path(out)
    refuse_occupied(target, overwrite=overwrite)
    stored = read_settings(source)
    require_recipe(source, stored)
    refuse_outside(source, stored["settings"])
    result = read_result(source)
    if result is None:
        raise RunError(f"{source} has not finished: there is no {RESULT}; go on with --resume first")
    run = load_run(source, device="cpu")
    if not run.rule.classifies:
        raise RunError(
            f"{source} cannot be exported: {run.recipe.id} is fitted to data that a description cannot replace"
        )
    weights, others = safe_tensors(run.rule.state_dict())
    if others:
        raise RunError(
            f"{source} cannot be exported: {sorted(others)[0]!r} of {run.recipe.id} is no dense, real tensor"
        )
    content = safetensors.torch.save(weights)
    tensors = {"file": WEIGHTS, "sha256": hashlib.sha256(content).hexdigest(), "tensors": table_of(weights)}
    about = _about(source, stored, result, run) | {"weights": tensors}
    _require_same(source, about, weights, run)
    picture = source / CURVES
    files = {
        WEIGHTS: content,
        ABOUT: (json.dumps(about, indent=2) + "\n").encode(),
        CARD: write_card(about, picture=CURVES if picture.exists() else None).encode(),
    }
    with disk_errors(target):
        if picture.exists():
            files[CURVES] = picture.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
    write_folder(target, files)
    return target


def refuse_occupied(target: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something that is not to be lost.

    Raises:
        RunError: It is a file; or holds other files than those of an export; or an export, and `overwrite` is off.
    """
    if target.exists() and not target.is_dir():
        raise RunError(f"{target} is a file: choose a folder for the export")
    present = {path.name for path in target.iterdir()} if target.exists() else set()
    others = sorted(present - OURS) or sorted(present if present and not is_export(target) else ())
    if others:
        raise RunError(f"{target} holds other files ({others[0]}): choose an empty or a new folder")
    if present and not overwrite:
        raise RunError(f"{target} holds an export already: overwrite it with --replace, or choose another folder")


def _about(source: Path, stored: dict[str, Any], result: dict[str, Any], run: LoadedRun) -> dict[str, Any]:
    """All that export.json says but of the weights."""
    execution = run.execution
    named = run.recipe.data is None and run.recipe.drawn is None
    return {
        "format": FORMAT,
        "recipe": run.recipe.id,
        "settings": stored["settings"],
        "execution": {
            "seed": execution.seed,
            "precision": execution.precision,
            "channels_last": execution.channels_last,
        },
        "stage": None if not hasattr(run.rule, "stage") else run.rule.stage,
        "data": describe(run.splits, run.statistics) if named else None,
        "runs": _runs(source, stored, result),
        "departures": run.recipe.departures_of(run.settings),
        "device": result["device"],
        "train_seconds": result["train_seconds"],
        "versions": stored["versions"],
        "commits": stored["commits"],
    }


def _runs(source: Path, stored: dict[str, Any], result: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of this run and of finished runs beside it that differ in their seed alone, by seed."""

    def told(settings: dict[str, Any]) -> dict[str, Any]:
        execution = settings.get("execution", {})
        return {
            "recipe": settings.get("recipe"),
            "settings": settings.get("settings"),
            **{name: execution.get(name) for name in ("precision", "channels_last")},
        }

    metrics = {stored["execution"]["seed"]: result["metrics"]}
    for folder in sorted(source.resolve().parent.iterdir()):
        if not (folder / RESULT).exists() or folder.name == TRIAL:  # whose held-out images are others
            continue
        try:
            settings, other = read_settings(folder), read_result(folder)
        except RunError:
            continue  # a damaged neighbour is none of this run's
        if other is not None and told(settings) == told(stored):
            metrics.setdefault(settings["execution"]["seed"], other["metrics"])
    return [{"seed": seed, "metrics": metrics[seed]} for seed in sorted(metrics)]


def _require_same(source: Path, about: dict[str, Any], weights: dict[str, Tensor], run: LoadedRun) -> None:
    """Refuse a rule that a reader could not build again."""
    copy = rebuild(source, about, weights, device="cpu")
    images = run.splits.test.subset(range(min(SAMPLES, len(run.splits.test))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = copy.predict(images.images)
        torch.manual_seed(0)
        ours = scores_of(run, images)
    if not torch.equal(theirs, ours):
        raise RunError(
            f"{source} cannot be exported: {run.recipe.id} takes more from its data than an export describes"
        )
