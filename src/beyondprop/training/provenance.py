"""Which source trained a run."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path


def library_version() -> str:
    """The installed version of beyondprop."""
    try:
        return metadata.version("beyondprop")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


@cache
def source_commit() -> str | None:
    """The git commit of the library's source, with `-dirty` where its files differ from it; None where git has none.

    A package that merely lies inside somebody's repository (a virtual environment, say) is not its source.
    """
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "errors.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--", ".")
    return f"{commit}-dirty" if commit and changes else commit


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
