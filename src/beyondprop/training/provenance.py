"""Which source trained a run, and on what machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch


def library_version() -> str:
    """The installed version of beyondprop."""
    try:
        return metadata.version("beyondprop")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def surroundings(device: torch.device) -> dict[str, Any]:
    """Where what is measured now is measured: commit, versions, device, threads of torch, and the processor's model."""
    return {
        "commit": source_commit(),
        "versions": {
            "beyondprop": library_version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cpu": cpu_model(),
    }


def device_name(device: torch.device) -> str:
    """The model of a GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def cpu_model() -> str:
    """The processor's name, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def source_commit() -> str | None:
    """The git commit of the library's source, with `-dirty` where its files differ from it; None where git has none.

    The source is the package itself, or the checkout that pip installed it from as long as that holds the same files. A
    package that merely lies inside somebody's repository (a virtual environment, say) is not its source.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = _checkout_installed_from()
    for source in (package, checkout / "src" / "beyondprop") if checkout else (package,):
        if _git(source, "ls-files", "--error-unmatch", "errors.py") is None or not _same_modules(package, source):
            continue
        commit = _git(source, "rev-parse", "HEAD")
        changes = _git(source, "status", "--porcelain", "--", ".")
        return f"{commit}-dirty" if commit and changes else commit
    return None


def _checkout_installed_from() -> Path | None:
    """The local folder that pip noted when it installed the package (PEP 610)."""
    try:
        note = json.loads(metadata.distribution("beyondprop").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    address = urlparse(note.get("url", ""))
    return Path(unquote(address.path)) if address.scheme == "file" else None


def _same_modules(package: Path, source: Path) -> bool:
    def contents(folder: Path) -> dict[Path, bytes]:
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.py")}

    return package == source or contents(package) == contents(source)


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
