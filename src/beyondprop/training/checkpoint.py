"""A checkpoint: one folder that holds all that a training needs to go on to the very same bits."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from beyondprop.errors import RunError
from beyondprop.training.atomic import disk_errors, remove_folder, write_folder

MODEL, STATE, SUMS = "model.safetensors", "state.pt", "checkpoint.json"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        step: Number of batches that were trained on.
        model: `rule.state_dict()`, on the CPU.
        state: The rest: optimizer, scheduler, generators, position, lengths.
    """

    step: int
    model: dict[str, Any]
    state: dict[str, Any]

    def restore_model(self, rule: nn.Module) -> None:
        """Load the weights.

        Raises:
            RunError: They are those of another network.
        """
        try:
            rule.load_state_dict(self.model)
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunError(f"the checkpoint does not fit {type(rule).__name__}: {_first_reason(error)}") from error


def save(folder: Path, step: int, rule: nn.Module, state: dict[str, Any], keep: int = 1) -> None:
    """Write `folder/checkpoint-STEP`; once it stands, the older ones go.

    Args:
        folder: The run folder.
        step: Number of batches that were trained on.
        rule: Its `state_dict` is stored; tensors that share memory are stored once each.
        state: What `torch.load(weights_only=True)` can read.
        keep: How many checkpoints may stand: this one and those just before it.

    Raises:
        RunError: The disk is full or refuses; the older checkpoints are as they were.
    """
    tensors, others = safe_tensors(rule.state_dict())
    buffer = io.BytesIO()
    torch.save({**state, "model_others": others}, buffer)
    contents = {MODEL: safetensors.torch.save(tensors), STATE: buffer.getvalue()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    about = json.dumps({"step": step, "sha256": sums}, indent=2)
    newest = folder / f"checkpoint-{step}"
    write_folder(newest, {**contents, SUMS: about.encode()})
    older = [path for number, path in standing(folder) if number < step]
    later = [path for number, path in standing(folder) if number > step]
    drop([*older[: len(older) - (keep - 1)], *later])


def drop(paths: Iterable[Path]) -> None:
    """Remove checkpoints."""
    for path in paths:
        with disk_errors(path):
            remove_folder(path)


def load(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        RunError: There are some, and none is whole.
    """
    faults = []
    for step, path in reversed(standing(folder)):
        try:
            return read(path, step)
        except DamagedError as damage:
            faults.append(f"{path}: {damage}")
    if faults:
        raise RunError(f"no checkpoint can be read ({'; '.join(faults)}): restore it, or start anew in another folder")
    return None


def standing(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run folder with their steps, oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match[1]), path) for match, path in found if match)


class DamagedError(Exception):
    """This checkpoint is not whole; the text says why."""


def read(path: Path, step: int) -> Checkpoint:
    """Read one checkpoint.

    Args:
        path: Its folder.
        step: Its step, as `standing` says.

    Raises:
        DamagedError: It is not whole.
    """
    try:
        about = json.loads((path / SUMS).read_bytes())
        sums = about["sha256"] if about["step"] == step else {}
        contents = {name: (path / name).read_bytes() for name in (MODEL, STATE)}
        damaged = [name for name, content in contents.items() if hashlib.sha256(content).hexdigest() != sums[name]]
    except OSError as error:
        raise DamagedError(f"{Path(error.filename or path).name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{SUMS} is damaged") from error
    if damaged:
        raise DamagedError(f"the checksum of {damaged[0]} is wrong")
    try:
        with warnings.catch_warnings():
            # From torch 2.15 on it warns that checking sparse tensors takes time; they are to be checked.
            warnings.filterwarnings("ignore", message="Validating sparse tensor invariants")
            state = torch.load(io.BytesIO(contents[STATE]), map_location="cpu", weights_only=True)
        model: dict[str, Any] = safetensors.torch.load(contents[MODEL])
    except (RuntimeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise DamagedError(_first_reason(error)) from error
    return Checkpoint(step, {**model, **state.pop("model_others")}, state)


def safe_tensors(model: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part what safetensors can hold (dense real tensors, no two in the same memory) from all else."""
    tensors: dict[str, Tensor] = {}
    others: dict[str, Any] = {}
    storages: set[int] = set()
    for name, value in model.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
            others[name] = value
            continue
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return tensors, others


def _first_reason(error: Exception) -> str:
    """The first line that says something: torch's first one only names the class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else (lines or [type(error).__name__])[0]
