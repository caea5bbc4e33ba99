"""The run folder: settings, metrics, checkpoint, curves and result of one training, and a lock."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from beyondprop.errors import RunError
from beyondprop.training import checkpoint
from beyondprop.training.atomic import PARTIAL, disk_errors, sync_folder, write_all, write_file
from beyondprop.training.checkpoint import Checkpoint
from beyondprop.training.provenance import library_version, source_commit

SETTINGS, METRICS, RESULT, LOCK = "settings.json", "metrics.jsonl", "result.json", ".lock"
CURVES = "curves.png"
# A run may go on at another place: these do not make it another run.
MOVABLE = {
    *("execution.device", "execution.threads"),
    *("settings.chip", "settings.token_file", "settings.timeout"),  # where a chip is, and how it is reached
    "settings.file",  # of the user's that a run learns from, known again by its checksum
}
CHECKSUM = "settings.sha256"
TRIAL = "trial"  # the folder of a search's training, beside those that are named by their seed
RANK = re.compile(r"rank-(\d+)")  # folders below a run's own: those of the processes that share it out
# Settings that runs of older versions do not name, and what they were trained with.
UNNAMED = {
    "settings.ema": 0.0,
    "settings.encoder": "paper",
    "settings.encoder_width": 64,
    "settings.stuck_after": 256,
    "settings.clip": 0.001,
}


class RunFolder:
    """A folder that one process trains in.

        with RunFolder("runs/mine", {"epochs": 10}, resume=True) as run:
            fit(rule, batches, optimizer=optimizer, epochs=10, run=run)

    Everything but the metrics is written beside its place and renamed, so that a kill at any moment leaves either the
    old or the new. Metrics are appended, and cut to the checkpoint's length when a run goes on.

    Args:
        path: The folder; made if it is not there.
        settings: What tells this run from another; must survive JSON. Stored with versions and commits.
        resume: Whether to go on with what the folder holds; with nothing there a run begins anew.
        latest: Go on from no later checkpoint than that of this step; later ones are removed.
        keep: How many checkpoints stand at a time.

    Attributes:
        settings: As they are stored.
        checkpoint: From which the training goes on, or None.
        result: Of a run that has finished, or None.
        commits: Commits of the library's source that trained part of this run (none where git is not used).

    If the `with` block fails before the first checkpoint, a folder that was made here goes again, and one that was
    empty may begin anew.

    Raises:
        RunError: The folder holds a run and `resume` is off, or a run with other settings, or files that are no run's;
            another process trains in it; it cannot be written to; its checkpoint or its settings are damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        latest: int | None = None,
        keep: int = 1,
    ) -> None:
        self.path = Path(path)
        self._keep = keep
        self.checkpoint: Checkpoint | None = None
        self.result: dict[str, Any] | None = None
        existed = self.path.exists()
        self._make()
        self._lock: int | None = _lock(self.path)
        self._made_here = not existed
        self._begun_here = not (self.path / SETTINGS).exists()
        try:
            self._open(json.loads(json.dumps(dict(settings))), resume, latest)
        except BaseException:
            self._clear()
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._clear()
        self.close()

    def _clear(self) -> None:
        """Take back a start that failed, as where a setting is unfit: there is nothing to go on with.

        The lock stays where the folder does, for who waits for it has it open.
        """
        if not self._begun_here or self.result is not None or checkpoint.standing(self.path):
            return
        if self._made_here:
            shutil.rmtree(self.path, ignore_errors=True)
        elif {path.name for path in self.path.iterdir()} <= {SETTINGS, SETTINGS + PARTIAL, METRICS, LOCK}:
            for name in (SETTINGS, SETTINGS + PARTIAL, METRICS):
                (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give the folder free for other processes."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def commits(self) -> list[str]:
        """Commits of the source that trained part of this run."""
        return list(self.settings["commits"])

    def require_space(self, size: int) -> None:
        """Refuse before training what would fail in it.

        Args:
            size: Bytes that will be written.

        Raises:
            RunError: The disk has less left.
        """
        with disk_errors(self.path):
            free = shutil.disk_usage(self.path).free
        if free < size:
            raise RunError(
                f"{self.path}: the disk has {free / 2**20:.0f} MiB left and two checkpoints take {size / 2**20:.0f} MiB"
                ": free some space or choose another folder"
            )

    def save_checkpoint(self, step: int, rule: nn.Module, state: dict[str, Any]) -> None:
        """Write a checkpoint that goes with the metrics written so far; older ones go once it stands."""
        with disk_errors(self.path / METRICS), (self.path / METRICS).open("ab") as file:
            os.fsync(file.fileno())
            length = file.tell()
        checkpoint.save(self.path, step, rule, {**state, "metrics_length": length}, self._keep)

    def append_metrics(self, records: list[dict[str, Any]]) -> None:
        """Append records to metrics.jsonl."""
        if not records:
            return
        path = self.path / METRICS
        with disk_errors(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                write_all(descriptor, "".join(json.dumps(record) + "\n" for record in records).encode())
            finally:
                os.close(descriptor)

    def metrics(self) -> list[dict[str, Any]]:
        """Every record that metrics.jsonl holds."""
        return read_metrics(self.path)

    def write_curves(self, png: bytes) -> None:
        """Replace the picture of loss and accuracy."""
        write_file(self.path / CURVES, png)

    def write_comparison(self, kind: str, png: bytes) -> None:
        """Replace a picture of layers' updates beside others, such as `alignment.png`."""
        write_file(self.path / f"{kind.replace('_', '-')}.png", png)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file of the recipe's own."""
        write_file(self.path / name, content)

    def write_result(self, result: dict[str, Any]) -> None:
        """Say that the run has finished, and with what."""
        write_file(self.path / RESULT, _json(result))
        self.result = result

    def _make(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: choose a folder for the run")
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / SETTINGS).exists():  # before the lock leaves a file of ours among somebody's own
            ours = {LOCK, SETTINGS + PARTIAL}
            others = sorted(p.name for p in self.path.iterdir() if p.name not in ours and not RANK.fullmatch(p.name))
            if others:
                raise RunError(
                    f"{self.path} holds other files ({others[0]}) and no run: choose an empty or a new folder"
                )

    def _open(self, settings: dict[str, Any], resume: bool, latest: int | None) -> None:
        present = read_settings(self.path) if (self.path / SETTINGS).exists() else None
        if present is not None and not resume:
            raise RunError(f"{self.path} holds a run already: --resume (resume=True) goes on, or choose another folder")
        if present is not None:
            refuse_other_settings(self.path, settings, present)
        self._sweep()
        if present is not None:
            self.result = read_result(self.path)
            self.settings = present
            if self.result is not None:
                return
            if latest is not None:
                checkpoint.drop(path for step, path in checkpoint.standing(self.path) if step > latest)
            self.checkpoint = checkpoint.load(self.path)
            self._cut_metrics(self.checkpoint.state["metrics_length"] if self.checkpoint else 0)
        commits = list(present["commits"]) if present else []
        if (commit := source_commit()) and commit not in commits:
            commits.append(commit)
        self.settings = {
            **settings,
            "commits": commits,
            "versions": {"beyondprop": library_version(), "torch": torch.__version__},
        }
        write_file(self.path / SETTINGS, _json(self.settings))

    def _sweep(self) -> None:
        """Remove what a kill has left half written."""
        with disk_errors(self.path):
            for path in self.path.glob("*" + PARTIAL):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _cut_metrics(self, length: int) -> None:
        path = self.path / METRICS
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise RunError(f"{path} is shorter than when the checkpoint was saved: restore it, or start anew elsewhere")
        if size > length:
            with disk_errors(path):
                os.truncate(path, length)
                sync_folder(self.path)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Every record of a run's metrics.jsonl; none where there is no such file.

    Raises:
        RunError: It is damaged.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): restore it, or start anew in another folder") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        RunError: There are none, or they are damaged.
    """
    path = folder / SETTINGS
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
        settings["commits"]  # every one that was written whole has them
    except FileNotFoundError as error:
        if folder.is_dir() and any(RANK.fullmatch(p.name) for p in folder.iterdir()):
            raise RunError(
                f"{folder} holds parts of a run that are not merged: once all have finished, "
                f"{shlex.join(['beyondprop', 'merge', str(folder)])}"
            ) from error
        if (folder / "model.safetensors").exists():
            raise RunError(
                f"{folder} holds weights, but neither {SETTINGS} nor export.json: restore it, or export anew"
            ) from error
        raise RunError(f"{folder} holds no run: there is no {SETTINGS}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}): restore it, or start anew in another folder") from error
    return settings


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run, or None where it has not finished.

    Raises:
        RunError: It is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove it and resume") from error
    if not isinstance(result, dict):
        raise RunError(f"{path} is no result: remove it and resume")
    return result


def refuse_other_settings(path: Path, wanted: dict[str, Any], present: dict[str, Any]) -> None:
    """Refuse to take one run for another.

    Args:
        path: Of the run that is present, for the error.
        wanted: Settings as `RunFolder` takes them.
        present: Settings as they are stored.

    Raises:
        RunError: They differ in more than where the run is computed; the message names the first difference.
    """
    ours = {key: value for key, value in present.items() if key not in ("commits", "versions")}
    new = _flat(wanted)
    old = {name: value for name, value in UNNAMED.items() if name in new} | _flat(ours)
    for name in sorted(new.keys() | old.keys()):
        if name == CHECKSUM and old.get(name) and new.get(name) != old[name]:
            raise RunError(
                f"{path} was trained on {old['settings.file']}, and {new.get('settings.file')} is another file or has "
                "changed since: name the file as it was, or train anew in another folder"
            )
        if name not in MOVABLE and new.get(name) != old.get(name):
            raise RunError(
                f"{path} holds another run: its {name} is {old.get(name)!r}, not {new.get(name)!r}: "
                f"give the same settings (they stand in its {SETTINGS}), or choose another folder"
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def is_in_use(folder: Path) -> bool:
    """Whether a process, of this machine or of one that shares locks with it, trains in a run folder now."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # goes with the file
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(folder: Path) -> int:
    """Take the folder for this process; the lock goes with the process, whatever ends it."""
    path = folder / LOCK
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RunError(
            f"{folder}: another process is training in this folder: wait for it, or choose another"
        ) from error
    return descriptor


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
