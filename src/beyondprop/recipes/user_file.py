"""A file of the user's that a run learns from, known again by its whole path and its checksum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

Chosen = TypeVar("Chosen", bound=Any)


def with_checksum(settings: Chosen, name: str) -> Chosen:
    """What a run stores: settings with the file's whole path and its SHA-256.

    Args:
        settings: With a field `sha256`; one that is given stays, for the file has to be that one.
        name: Of the field that names the file.

    Raises:
        DataError: It cannot be read.
    """
    from beyondprop.data.files import sha256_of

    if not getattr(settings, name) or settings.sha256:
        return settings
    path = Path(getattr(settings, name)).resolve()
    return replace(settings, **{name: str(path), "sha256": sha256_of(path)})


def refuse_another(path: str, sha256: str) -> None:
    """Refuse a file that is not the one of the checksum.

    Args:
        path: The file.
        sha256: Its checksum; any file will do where it is empty.

    Raises:
        UserError: It is gone, or has changed.
    """
    from beyondprop.data.files import sha256_of
    from beyondprop.errors import UserError

    if not sha256:
        return
    if not Path(path).exists():
        raise UserError(f"{path} is gone, on which the run was trained: put it back, or train anew")
    if (found := sha256_of(Path(path))) != sha256.lower():
        raise UserError(
            f"{path} has changed since the run was trained on it (SHA-256 {found[:12]}…, then {sha256[:12]}…): put the "
            "file back as it was, or train anew"
        )
