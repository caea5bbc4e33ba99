"""Files that are either the old ones or the new ones, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beyondprop.errors import RunError

PARTIAL = ".partial"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one line.

    Raises:
        RunError: In place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte; a disk that becomes full takes a part of them first."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write or replace a file atomically.

    Raises:
        RunError: The disk is full or refuses; the file is as before and nothing partial is left.
    """
    partial = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        try:
            write_synced(partial, content)
            partial.replace(path)
            sync_folder(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Write a new folder of files atomically; one that stands under that name gives way just before.

    Raises:
        RunError: The disk is full or refuses; no folder of that name is made and nothing partial is left.
    """
    partial = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        try:
            partial.mkdir()
            for name, content in files.items():
                write_synced(partial / name, content)
            sync_folder(partial)
            if path.exists():
                remove_folder(path)
            partial.rename(path)
            sync_folder(path.parent)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def remove_folder(path: Path) -> None:
    """Remove a folder such that it is never seen half empty under its own name."""
    doomed = path.with_name(path.name + ".old" + PARTIAL)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
