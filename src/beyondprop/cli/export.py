"""`beyondprop export RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beyondprop.cli.arguments import parse
from beyondprop.cli.output import say, say_json
from beyondprop.cli.runs import find_run
from beyondprop.errors import UserError

HELP = """Writes the trained rule of a finished run into a folder that can be shared: weights (safetensors), a
description (export.json) and a model card (README.md) with settings, data set, figures by seed and citation. RUN is a
run folder, or its path below $BEYONDPROP_RUNS. `beyondprop.load_exported` builds the rule again, and `beyondprop
evaluate` measures it; nothing in the folder is executed.

Examples:
  beyondprop export runs/mine
  beyondprop export dfa/digits/seed-0 --out shared/dfa-digits
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where it goes and what is printed."""

    out: Path | None = None
    """Folder of the export; by default `export` in the run folder."""
    replace: bool = False
    """Overwrite another export in that folder."""
    json: bool = False
    """Print the folder as one JSON object on the last line of stdout."""


def run(argv: list[str]) -> None:
    """Run the command."""
    words, given = parse(argv, "beyondprop export RUN", HELP, words=1, output=Output())
    if not words:
        raise UserError("export needs a run folder: beyondprop export RUN (see `beyondprop export --help`)")
    from beyondprop.export import export_run  # noqa: PLC0415  # it imports torch

    output: Output = given.output
    folder = find_run(words[0])
    target = export_run(folder, output.out or folder / "export", overwrite=output.replace)
    if output.json:
        say_json({"run": str(folder), "folder": str(target)})
        return
    say(f"export    {target}")
    say(f"load      beyondprop.load_exported({str(target)!r})")
