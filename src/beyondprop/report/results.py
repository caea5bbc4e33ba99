"""Reading result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beyondprop.catalogue import SYSTEMS
from beyondprop.errors import UserError

COMPARISON = "compare.json"
_FIELDS = {
    "recipe": str,
    "settings": dict,
    "departures": list,
    "seeds": list,
    "metrics": dict,
    "paper": dict | None,
    "cost": dict,
    "environment": dict,
}

OWN = ("nll",)  # what rules that measure themselves tell first

_COMPARISON_FIELDS = {"dataset", "contenders", "seeds", "budget", "precision", "environment"}
_ROW_FIELDS = {"case", "metric", "ours", "peer", "peer_value", "ratio"}


def read_result(path: Path) -> dict[str, Any]:
    """Read one result file.

    Raises:
        UserError: It cannot be read, or is no result.
    """
    document = _read_json(path)
    whole = isinstance(document, dict) and document.keys() >= _FIELDS.keys()
    whole = whole and all(isinstance(document[name], kind) for name, kind in _FIELDS.items())
    if not whole or not document["metrics"].keys() & {"test_accuracy", "test_mse", *OWN} or not document["settings"]:
        raise UserError(f"{path} is no result file of `beyondprop reproduce`: move it elsewhere")
    return document


def read_results(folder: Path, pattern: str = "*/*.json") -> list[dict[str, Any]]:
    """Read every result file, in the order of the catalogue; `file` is added to each document.

    Args:
        folder: Of result files.
        pattern: Where they are in it; by default each in the folder of its system.

    Raises:
        UserError: One of them cannot be read, or is no result.
    """
    results = [{**read_result(path), "file": path} for path in sorted(folder.glob(pattern))]
    order = [recipe.id for system in SYSTEMS for recipe in system.recipes]
    return sorted(results, key=lambda r: order.index(r["recipe"]) if r["recipe"] in order else len(order))


def read_benchmark(path: Path) -> dict[str, Any]:
    """Read the result file of one benchmark.

    Raises:
        UserError: It cannot be read, or is no benchmark's.
    """
    document = _read_json(path)
    whole = isinstance(document, dict) and isinstance(document.get("rows"), list) and "environment" in document
    if not whole or not all(isinstance(row, dict) and row.keys() >= _ROW_FIELDS for row in document["rows"]):
        raise UserError(f"{path} is no result file of a benchmark: move it elsewhere")
    return document


def read_comparison(path: Path) -> dict[str, Any]:
    """Read the document of a comparison.

    Raises:
        UserError: It cannot be read, or is no comparison's.
    """
    document = _read_json(path)
    if not isinstance(document, dict) or not document.keys() >= _COMPARISON_FIELDS:
        raise UserError(f"{path} is no document of `beyondprop compare`: move it elsewhere")
    return document


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): restore it or remove it") from error
