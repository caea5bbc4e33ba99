"""`beyondprop report [FILE... | FOLDER...]`: the tables of the documentation, or what folders of runs hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beyondprop.cli.arguments import parse
from beyondprop.cli.output import aligned, note, say
from beyondprop.errors import UserError
from beyondprop.report.comparison_page import page_anew
from beyondprop.report.other_tables import comparison_table
from beyondprop.report.results import COMPARISON, read_comparison, read_results
from beyondprop.report.runs_page import HEADS, find_runs, runs_rows, write_runs_page
from beyondprop.report.tables import benchmark_tables, comparison_tables, regenerate, tables, tables_of
from beyondprop.training.atomic import write_file
from beyondprop.training.run_folder import SETTINGS

HELP = """Makes the tables of the documentation: the results of every reproduced recipe beside the paper's
numbers, and the catalogue of systems. Without files it prints them. With files it rewrites in each what stands
between the lines <!-- results:begin --> and <!-- results:end -->, <!-- systems:begin --> and <!-- systems:end -->, for
a benchmark's file NAME.json <!-- benchmark-NAME:begin --> and <!-- benchmark-NAME:end -->, and for the results of a
rule's page docs/rules/NAME.md <!-- page-NAME:begin --> and <!-- page-NAME:end -->.

With a folder in the place of files it prints what stands in it: the runs in and below it, which --page writes as one
page with their curves; a comparison, or several, whose table is printed, and of one --page writes the page anew; or the
result files of `beyondprop reproduce`, as tables.

Examples:
  beyondprop report
  beyondprop report README.md docs/results.md
  beyondprop report runs --page runs.html
  beyondprop report results/dfa
  beyondprop report compare --page compare/index.html
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the tables are made from."""

    results: Path = Path("results")
    """Folder of the result files that `beyondprop reproduce` writes."""
    benchmarks: Path = Path("benchmarks/results")
    """Folder of the result files that the scripts of `benchmarks` write."""
    page: Path | None = None
    """File of the page about a folder of runs, or about a comparison."""


def run(argv: list[str]) -> None:
    """Run the command."""
    words, given = parse(argv, "beyondprop report [FILE... | FOLDER...]", HELP, words=-1, source=Source())
    folders = [path for path in map(Path, words) if path.is_dir()]
    if folders:
        if len(folders) < len(words):
            raise UserError("name folders or markdown files, not both at once")
        if given.source.page is not None and len(folders) > 1:
            raise UserError("--page takes one folder: name the one above them")
        for folder in folders:
            _report_folder(folder, given.source.page)
        return
    if given.source.page is not None:
        raise UserError("--page is of a folder of runs or of a comparison: name one that is there")
    made = tables(given.source.results)
    if not words:
        say(_printed(made))
        return
    made |= benchmark_tables(given.source.benchmarks)
    # All files are read and made anew before the first is written, so that an error leaves every one as it was.
    before = {path: _read(path) for path in map(Path, words)}
    after = {path: _regenerated(path, text, made) for path, text in before.items()}
    if not any(given.source.results.glob("*/*.json")):
        raise UserError(f"{given.source.results} holds no result file: name by --results the folder that does")
    for path, text in after.items():
        if text != before[path]:
            write_file(path, text.encode())
        note(f"{path}: {'rewritten' if text != before[path] else 'unchanged'}")


def _report_folder(folder: Path, page: Path | None) -> None:
    """Print what a folder holds, and write its page where one is asked for."""
    if (folder / COMPARISON).exists():
        say(comparison_table(read_comparison(folder / COMPARISON)))
        _write(page, lambda: page_anew(folder))
    elif any(folder.rglob(SETTINGS)):
        runs = find_runs(folder)
        say(aligned([HEADS, *runs_rows(runs, folder)], indent=""))
        _write(page, lambda: write_runs_page(runs, folder))
    else:
        if page is not None:
            raise UserError(
                f"{folder} holds no run and is no comparison: --page is of a folder of runs or a comparison"
            )
        made = _tables_in(folder)
        if not made:
            find_runs(folder)  # says what a folder may hold
        say(_printed(made))


def _printed(made: dict[str, str]) -> str:
    """Tables one after another, without those of rules' pages, which hold the same rows once more."""
    return "\n\n".join(table for name, table in made.items() if not name.startswith("page-"))


def _tables_in(folder: Path) -> dict[str, str]:
    """Tables of the comparisons or results of a folder of `results`, or of `results` itself."""
    if any(folder.glob(f"*/{COMPARISON}")):
        return {
            name: f"{name.removeprefix('comparison-')}:\n\n{table}" for name, table in comparison_tables(folder).items()
        }
    if any(folder.glob("*/*.json")):
        return {name: table for name, table in tables(folder).items() if name != "systems"}
    return tables_of(read_results(folder, "*.json"))


def _write(page: Path | None, make: Callable[[], str]) -> None:
    if page is not None:
        write_file(page, make().encode())
        note(f"{page}: written")


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
        raise UserError(
            f"{path} cannot be read ({reason}): name an existing markdown file or folder of runs"
        ) from error
