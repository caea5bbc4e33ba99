"""Writes anew what the result files say of their papers: the departures and the published figures of today's recipes.

    python results/refresh_paper.py            all files below results/
    python results/refresh_paper.py heb/mnist  one

A recipe's words may change while what it does stays as it is: then nothing has to be trained again. What was measured,
and with which settings, is not touched. The changes are printed, to be read before they are committed: where the words
are others because the code does something else now, reproduce instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from beyondprop.catalogue import find_recipe
from beyondprop.reproduce import PRECISION, beside_the_paper
from beyondprop.training.assembly import restore_settings
from beyondprop.training.atomic import write_file
from beyondprop.training.execution import Execution

RESULTS = Path(__file__).resolve().parent


def refreshed(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """A result file's content, with what today's recipe says of the paper; the path is for errors."""
    recipe = find_recipe(document["recipe"])
    settings = restore_settings(recipe.settings, document["settings"], path)
    told = (words.removeprefix(PRECISION) for words in document["departures"] if words.startswith(PRECISION))
    return {**document, **beside_the_paper(recipe, settings, next(told, Execution.precision))}


def main(names: list[str]) -> None:
    """Refresh result files, by names such as `heb/mnist`; all of them where none is named."""
    for path in [RESULTS / f"{name}.json" for name in names] or sorted(RESULTS.glob("*/*.json")):
        before = json.loads(path.read_bytes())
        after = refreshed(before, path)
        for name in ("departures", "paper"):
            if before[name] != after[name]:
                print(f"{path.relative_to(RESULTS)}: {name}\n  {before[name]}\n  {after[name]}")
        if before != after:
            write_file(path, (json.dumps(after, indent=2, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
