"""`beyondprop report [FILE...]`: the tables of the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beyondprop.cli.arguments import parse
from beyondprop.cli.output import note, say
from beyondprop.errors import UserError
from beyondprop.report.tables import benchmark_tables, regenerate, tables
from beyondprop.training.atomic import write_file

HELP = """Makes the tables of the documentation: the results of every reproduced recipe beside the paper's
numbers, and the catalogue of systems. Without files it prints them. With files it rewrites in each what stands
between the lines <!-- results:begin --> and <!-- results:end -->, <!-- systems:begin --> and <!-- systems:end -->, and
for a benchmark's file NAME.json <!-- benchmark-NAME:begin --> and <!-- benchmark-NAME:end -->.

Examples:
  beyondprop report
  beyondprop report README.md docs/results.md
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the tables are made from."""

    results: Path = Path("results")
    """Folder of the result files that `beyondprop reproduce` writes."""
    benchmarks: Path = Path("benchmarks/results")
    """Folder of the result files that the scripts of `benchmarks` write."""


def run(argv: list[str]) -> None:
    """Run the command."""
    words, given = parse(argv, "beyondprop report [FILE...]", HELP, words=-1, source=Source())
    made = tables(given.source.results)
    if not words:
        say("\n\n".join(made.values()))
        return
    made |= benchmark_tables(given.source.benchmarks)
    # All files are read and made anew before the first is written, so that an error leaves every one as it was.
    before = {path: _read(path) for path in map(Path, words)}
    after = {path: _regenerated(path, text, made) for path, text in before.items()}
    for path, text in after.items():
        if text != before[path]:
            write_file(path, text.encode())
        note(f"{path}: {'rewritten' if text != before[path] else 'unchanged'}")


def _regenerated(path: Path, text: str, made: dict[str, str]) -> str:
    if not any(f"<!-- {name}:begin -->" in text for name in made):
        raise UserError(f"{path} has no place for a table: write <!-- results:begin --> and <!-- results:end --> there")
    try:
        return regenerate(text, made)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason}): name an existing markdown file") from error
