"""The table of every rule's page: what was measured of its systems, with the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beyondprop.catalogue import SYSTEMS
from beyondprop.report.cells import Sources, accuracy, published, settings, spread
from beyondprop.report.markdown import duration, markdown_table, result_label
from beyondprop.report.other_tables import FLOORS

_RUN = ("Seeds", "Epochs", "Time a seed", "Settings")
_WORDS = ("Recipe", "Settings")
_OTHERS = {  # of results that are no accuracy: the column, and how its numbers are written
    "edge_auc": ("Edge AUC", ".3g", ".1g"),
    "gap_nll": ("NLL of the gap", ".3f", ".1g"),
    "test_mse": ("Test error (MSE)", ".3g", ".1g"),
}
_TOLD = "One row a result file: test samples at the end of training, mean ± standard deviation over seeds."
_WITH_ALL = (
    "What else a figure means, and where a row departs from its paper, stands with [all results](../results.md)."
)
_ON_THAT_PAGE = {"test_accuracy", "test_mse"}


def page_tables(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Make the table of every page of the catalogue, by the name that its markers carry: `page-` and that of the page.

    Args:
        results: Documents of the result files of all kinds, in the order of their rows.
    """
    systems: dict[str, set[str]] = {}
    for system in SYSTEMS:
        systems.setdefault(system.page, set()).add(system.id)
    return {
        f"page-{page}": page_table([result for result in results if result["recipe"].partition("/")[0] in ids])
        for page, ids in systems.items()
    }


def page_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a result, with its settings: accuracies beside the papers', then each other kind of figure.

    Args:
        results: Documents of the result files of a page's systems.
    """
    kinds: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        kind = "test_accuracy"
        if kind not in result["metrics"]:
            kind = next(name for name in _OTHERS if name in result["metrics"])
        kinds.setdefault(kind, []).append(result)
    if not kinds:
        return "No results yet."
    parts = [_accuracies(kinds["test_accuracy"])] if "test_accuracy" in kinds else []
    parts += [_figures(kind, kinds[kind]) for kind in _OTHERS if kind in kinds]
    told = f"{_TOLD}\n{_WITH_ALL}" if kinds.keys() & _ON_THAT_PAGE else _TOLD
    return "\n\n".join([*parts, told])


def _accuracies(results: Sequence[dict[str, Any]]) -> str:
    sources = Sources()
    papers = [published(result, sources)[0] for result in results]
    beside = ("Published, %",) if any(papers) else ()
    rows = [
        (result_label(result), accuracy(result), *(paper for _ in beside), *_run(result))
        for result, paper in zip(results, papers, strict=True)
    ]
    heads = ("Recipe", "Test accuracy, %", *beside, *_RUN)
    return sources.below(markdown_table(heads, rows, left=_WORDS))


def _figures(kind: str, results: Sequence[dict[str, Any]]) -> str:
    head, form, error = _OTHERS[kind]
    floors = FLOORS if any(name in result["metrics"] for name in FLOORS for result in results) else {}
    rows = []
    for result in results:
        metrics = result["metrics"]
        beside = [f"{metrics[name]['mean']:.3g}" if name in metrics else "" for name in floors]
        rows.append((result_label(result), spread(result, kind, form, error), *beside, *_run(result)))
    heads = ("Recipe", head, *floors.values(), *_RUN)
    return markdown_table(heads, rows, left=_WORDS)


def _run(result: dict[str, Any]) -> tuple[str, str, str, str]:
    seeds, epochs = str(len(result["seeds"])), str(result["settings"].get("epochs", ""))
    return seeds, epochs, duration(result["cost"]["train_seconds"]), settings(result)
