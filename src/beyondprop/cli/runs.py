"""Run folders that are named on the command line."""

from __future__ import annotations

from pathlib import Path

from beyondprop.errors import UserError
from beyondprop.reproduce import runs_root


def look_for_run(word: str) -> Path | None:
    """The folder of this path, or of this path below the folder of all runs; None where there is none."""
    return next((folder for folder in (Path(word), runs_root() / word) if folder.is_dir()), None)


def holds_run(folder: Path) -> bool:
    """Whether a training has begun in a folder."""
    from beyondprop.training.run_folder import SETTINGS  # noqa: PLC0415  # it imports torch

    return (folder / SETTINGS).exists()


def find_run(word: str) -> Path:
    """The same.

    Raises:
        UserError: There is none.
    """
    folder = look_for_run(word)
    if folder is None:
        raise UserError(f"there is no run folder {word}, nor one of this name below {runs_root()}")
    return folder
