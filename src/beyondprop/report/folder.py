"""A folder with one document and its page: what may be written into it, and writing it whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from beyondprop.errors import UserError
from beyondprop.report.results import COMPARISON
from beyondprop.training.atomic import write_file

PAGE = "index.html"


def refuse_other(
    out: Path, document: str, wanted: Mapping[str, Any], pictures: Iterable[str], *, overwrite: bool
) -> None:
    """Refuse a folder that holds something else, before days are spent on what could not be written there.

    Args:
        out: The folder, which need not be there.
        document: Name of the JSON file in it, such as `study.json`.
        wanted: What of a document there must be the same as this; of `seeds` there may be fewer.
        pictures: Names of files that may stand beside it.
        overwrite: Whether another document may be there.

    Raises:
        UserError: It is a file, or holds other files, or another document that is not to be overwritten.
    """
    what = "comparison" if document == COMPARISON else document.partition(".")[0]
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder by --out")
    present = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if document not in present:
        others = sorted(set(present) - {PAGE, *pictures})
        if others:
            raise UserError(f"{out} holds other files ({others[0]}) and no {what}: choose another folder by --out")
        return
    if overwrite:
        return
    try:
        found = json.loads((out / document).read_bytes())
        former = {name: found[name] for name in wanted}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / document} cannot be read ({error}): remove it, or choose another folder") from error
    for name, value in json.loads(json.dumps(wanted)).items():
        if name == "seeds" and len(former[name]) <= len(value):
            continue
        if former[name] != value:
            raise UserError(
                f"{out} holds another {what}, which differs in its {name.replace('_', ' ')}: choose another folder by "
                "--out, or overwrite it with --replace"
            )


def save_page(out: Path, page: str, pictures: Mapping[str, bytes], known: Iterable[str]) -> None:
    """Save a page and its pictures, and take away those of an earlier page that this one does not have.

    Args:
        out: The folder.
        page: HTML.
        pictures: PNGs by name.
        known: Names of all pictures that such a page may have.
    """
    for picture in set(known) - set(pictures):
        (out / picture).unlink(missing_ok=True)
    for picture, content in pictures.items():
        write_file(out / picture, content)
    write_file(out / PAGE, page.encode())


def write_document(out: Path, name: str, document: Mapping[str, Any]) -> None:
    """Write the document that a folder is about; after its page, so that its presence says that all is there.

    Args:
        out: The folder.
        name: Of the document.
        document: What survives JSON.
    """
    write_file(out / name, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
