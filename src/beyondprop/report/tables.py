"""Markdown tables, made from result files and the catalogue and never typed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from beyondprop.catalogue import SYSTEMS, Paper, System
from beyondprop.errors import UserError
from beyondprop.report.cells import Sources, accuracy, published, spread
from beyondprop.report.figures import in_threads
from beyondprop.report.markdown import duration, escaped, markdown_table, processor, result_label
from beyondprop.report.other_tables import (
    comparison_table,
    errors_table,
    events_table,
    intensities_table,
    networks_table,
    solved_table,
)
from beyondprop.report.page_tables import page_tables
from beyondprop.report.results import read_benchmark, read_comparison, read_results

_RESULT_HEADS = (
    "Recipe",
    "Test accuracy, %",
    "Seeds",
    "Epochs",
    "Published, %",
    "Difference",
    "Time a seed",
    "Departures",
)
_SUMMARY_HEADS = (
    "System",
    "Paper",
    "Recipe",
    "Test accuracy, %",
    "Published, %",
    "Difference",
    "Seeds",
    "Time a seed",
    "Hardware",
)
FIRST_TRIES = ("digits", "gchp/simulated", "network-inference/lorenz-5")
OTHER_FIGURES = {  # of systems that classify nothing
    "gchp": ("gap_nll", "gap NLL"),
    "network-inference": ("edge_auc", "edge AUC"),
}
MOST_RECIPES = 8  # of one system in a table: back-propagation has one beside nearly every other recipe
_BENCHMARK_HEADS = ("Case", "Measured", "beyondprop", "Beside", "Theirs", "Ratio")


def tables(results: Path) -> dict[str, str]:
    """Make every table, by the name that its markers carry.

    Args:
        results: Folder of the result files.

    Raises:
        UserError: A result file is damaged.
    """
    found = read_results(results)
    return {
        **{name: make(each) for name, (make, each) in _by_kind(found).items()},
        "summary": summary_table(found),
        "systems": systems_table(),
        **page_tables(found),
        **comparison_tables(results / "compare"),
    }


def tables_of(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Make the tables of some results alone, of each kind that is among them.

    Args:
        found: Documents of the result files, in the order of their rows.
    """
    return {name: make(each) for name, (make, each) in _by_kind(found).items() if each}


def comparison_tables(folder: Path) -> dict[str, str]:
    """Make a table of every comparison in a folder of such, by the name that its markers carry.

    Args:
        folder: Of folders that `beyondprop compare` has written.

    Raises:
        UserError: A document is damaged.
    """
    return {
        f"comparison-{path.parent.name}": comparison_table(read_comparison(path))
        for path in sorted(folder.glob("*/compare.json"))
    }


def _by_kind(found: Sequence[dict[str, Any]]) -> dict[str, tuple[Callable[..., str], list[dict[str, Any]]]]:
    """What makes each table of results, and the results that stand in it."""

    def having(name: str, without: str = "") -> list[dict[str, Any]]:
        return [result for result in found if name in result["metrics"] and without not in result["metrics"]]

    return {
        "results": (results_table, having("test_accuracy")),
        "sequence-results": (errors_table, having("test_mse", without="edge_auc")),
        "event-results": (events_table, having("gap_nll")),
        "solved-results": (solved_table, having("solved")),
        "intensity-results": (intensities_table, having("solved_by_intensity")),
        "network-results": (networks_table, having("edge_auc")),
    }


def benchmark_tables(folder: Path) -> dict[str, str]:
    """Make a table of every benchmark, by the name that its markers carry: `benchmark-` and that of the file.

    Args:
        folder: Of the result files that the scripts of `benchmarks` write.

    Raises:
        UserError: A result file is damaged.
    """
    return {f"benchmark-{path.stem}": benchmark_table(read_benchmark(path)) for path in sorted(folder.glob("*.json"))}


def regenerate(text: str, made: Mapping[str, str]) -> str:
    r"""Replace what stands between the markers.

    Args:
        text: A markdown text. Names without markers in it are passed over.
        made: Tables by name.

    Raises:
        UserError: A marker lacks its counterpart, or stands twice.

    >>> print(regenerate("<!-- results:begin -->\nold\n<!-- results:end -->", {"results": "new"}))
    <!-- results:begin -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- results:end -->
    """
    for name, table in made.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if (text.count(begin), text.count(end)) == (0, 0):
            continue
        if (text.count(begin), text.count(end)) != (1, 1) or text.index(begin) > text.index(end):
            raise UserError(f"{begin} and {end} must stand in this order, once each")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    return text


def results_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a result: what was measured, beside what the paper prints.

    Sources of the papers' figures stand as lettered notes below, departures as numbered ones.

    Args:
        results: Documents of the result files, in the order of their rows.
    """
    if not results:
        return "No results yet."
    notes: list[str] = []
    sources = Sources()
    rows = []
    for result in results:
        numbers = sorted(_numbered(notes, departure) for departure in result["departures"])
        rows.append((*_measured(result, sources), ", ".join(map(str, numbers)) or "none"))
    table = sources.below(markdown_table(_RESULT_HEADS, rows))
    listed = "\n".join(f"{number}. {escaped(text)}" for number, text in enumerate(notes, 1))
    return f"{table}\n\nDepartures from the paper:\n\n{listed}" if notes else table


def summary_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a system of the catalogue, with its result that says most, and links from where README stands.

    That result is an accuracy without a suffix, for a suffix tells of other settings than the recipe's, on another
    set than those that are for first tries; else one that is most of that. Of several it is one beside a figure of
    the paper, then the one with the most seeds, then the first in the catalogue. Sources of the papers' figures stand
    as lettered notes below.

    Args:
        results: Documents of the result files of all kinds, in the order of the catalogue.
    """
    rows = []
    sources = Sources()
    for system in SYSTEMS:
        own = [result for result in results if result["recipe"].partition("/")[0] == system.id]
        begin = (_named(system, "docs/rules"), _cited(system.paper, str(system.paper.year)))
        if not own:
            rows.append((*begin, "not run yet", *[""] * 6))
            continue
        result = max(own, key=_says)  # the first of equals
        where = result["environment"]
        threads = in_threads(where["threads"])
        if "test_accuracy" not in result["metrics"]:
            name, told = OTHER_FIGURES.get(system.id, ("test_mse", "test MSE"))
            figures = (f"{told} {spread(result, name, '.4g', '.2g')}", "", "", str(len(result["seeds"])))
        else:
            figures = (accuracy(result), *published(result, sources), str(len(result["seeds"])))
        hardware = where["device"] if where["device"] != "cpu" else f"{processor(where.get('cpu', ''))}, {threads}"
        rows.append((*begin, result_label(result), *figures, duration(result["cost"]["train_seconds"]), hardware))
    return sources.below(markdown_table(_SUMMARY_HEADS, rows, left=("System", "Paper", "Recipe", "Hardware")))


def _says(result: dict[str, Any]) -> tuple[bool, bool, bool, bool, bool, int]:
    own = "(" not in result_label(result)
    classified = "test_accuracy" in result["metrics"]
    more = not any(name in result["recipe"] for name in FIRST_TRIES)
    beside = "test_accuracy" in (result["paper"] or {})
    return own and classified and more, beside, own, classified, more, len(result["seeds"])


def benchmark_table(document: dict[str, Any]) -> str:
    """One row a measurement beside something else, and a line on where it was taken. A ratio above 1 favours the first.

    Args:
        document: A benchmark's result file.

    Returns:
        The table. Numbers have three significant digits; nothing stands where the peer was not run.
    """
    rows = [
        (
            escaped(row["case"]),
            escaped(row["metric"].replace("_", " ")),
            _short(row["ours"]),
            escaped(row["peer"] or ""),
            _short(row["peer_value"]),
            _short(row["ratio"]),
        )
        for row in document["rows"]
    ]
    where = document["environment"]
    place = f"{where['cpu']}, {where['device']}, {in_threads(where['threads'])}"
    measured = f"Measured with torch {where['torch']} on {place}."
    return f"{markdown_table(_BENCHMARK_HEADS, rows)}\n\n{measured}"


def _short(value: float | None) -> str:
    """Three significant digits.

    >>> _short(80052080), _short(105.17), _short(2.0816), _short(0), _short(None)
    ('80,100,000', '105', '2.08', '0', '')
    """
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{round(value, 2 - int(math.log10(abs(value)))):,.0f}"
    return f"{value:.3g}"


def systems_table() -> str:
    """One row a system: its name, family, paper and recipes, of which a long list is cut short.

    Links start from where the first page of the documentation stands.
    """
    rows = []
    for system in SYSTEMS:
        paper = _cited(system.paper, f"{escaped(system.paper.title)}, {system.paper.year}")
        told = [f"`{recipe.id.partition('/')[2]}`" for recipe in system.recipes]
        if len(told) > MOST_RECIPES:
            told[MOST_RECIPES - 1 :] = [f"and {len(told) - MOST_RECIPES + 1} more"]
        rows.append((_named(system, "rules"), system.family, paper, ", ".join(told)))
    return markdown_table(("System", "Family", "Paper", "Recipes"), rows)


def _named(system: System, folder: str) -> str:
    """A system's id and name, which leads to its page."""
    return f"`{system.id}`: [{escaped(system.name)}]({folder}/{system.page}.md)"


def _cited(paper: Paper, text: str) -> str:
    """A text that leads to a paper where it has a page."""
    return f"[{text}]({paper.url})" if paper.url else text


def _measured(result: dict[str, Any], sources: Sources) -> tuple[str, ...]:
    """Cells of a classifier's result: label, accuracy, seeds, epochs, the paper's, the difference, the time."""
    return (
        result_label(result),
        accuracy(result),
        str(len(result["seeds"])),
        str(result["settings"].get("epochs", "")),  # a solver has none
        *published(result, sources),
        duration(result["cost"]["train_seconds"]),
    )


def _numbered(notes: list[str], text: str) -> int:
    """The number of a note, which is added if it is new."""
    if text not in notes:
        notes.append(text)
    return notes.index(text) + 1
