"""Tables of what is measured otherwise than by accuracy: errors, tasks that are solved or not, events, networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beyondprop.report.cells import spread
from beyondprop.report.comparison_document import edges_told, mean_angle, ranked
from beyondprop.report.figures import in_percent
from beyondprop.report.markdown import duration, escaped, markdown_table, result_label

FLOORS = {  # what needs no network with memory
    "memoryless_mse": "Memoryless",
    "linear_filter_mse": "Linear filter",
    "target_variance": "Variance",
}
_ERROR_HEADS = (
    "Recipe",
    "Test error (MSE)",
    *FLOORS.values(),
    "Seeds",
    "Epochs",
    "Time a seed",
    "Departures",
)
_SOLVED_HEADS = (
    "Recipe",
    "Seeds that solved it",
    "After, % of the training",
    "Stayed solved, %",
    "Right at the end, %",
    "Epochs",
    "Time a seed",
    "Departures",
)
_EVENT_HEADS = (
    "Recipe",
    "NLL of the gap",
    "NLL of gap and mark",
    "RMSE of the gap",
    "Marks right, %",
    "KS distance",
    "Seeds",
    "Epochs",
    "Time a seed",
)
_IN_TIME = {"gap_nll": ".3f", "nll": ".3f", "gap_rmse": ".4g"}
_CONSTANT, _REPEAT = "constant", "repeat the last mark"
_NETWORK_HEADS = (
    "Recipe",
    "Edge AUC",
    "Least squares",
    "Sparse regression",
    "Weight RMSE",
    "Least squares, RMSE",
    "Smoothed, RMSE",
    "f, RMSE",
    "Valid time / true",
    "Seeds",
    "Time a seed",
)
_NETWORK_FIGURES = (
    "edge_auc",
    "least_squares_edge_auc",
    "sparse_regression_edge_auc",
    "weight_rmse",
    "least_squares_weight_rmse",
    "smoothed_least_squares_weight_rmse",
    "local_rmse",
    "valid_time_ratio",
)
_COMPARISON_HEADS = (
    "Rule",
    "Test accuracy, %",
    "Step, ms",
    "Memory, MiB",
    "Kept for backward, MiB",
    "Operations, 10⁹",
    "Mean angle, °",
    "Learning rate",
)


def errors_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a result of regression: the test error, beside what was measured without a network that has memory.

    Args:
        results: Documents of the result files, in the order of their rows.
    """
    if not results:
        return "No results yet."
    rows = []
    for result in results:
        metrics = result["metrics"]
        floors = [f"{metrics[name]['mean']:.3g}" if name in metrics else "" for name in FLOORS]
        rows.append(
            (
                result_label(result),
                spread(result, "test_mse", ".3g", ".1g"),
                *floors,
                str(len(result["seeds"])),
                str(result["settings"].get("epochs", "")),
                duration(result["cost"]["train_seconds"]),
                escaped("; ".join(result["departures"])) or "none",
            )
        )
    return markdown_table(_ERROR_HEADS, rows)


def solved_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a result of a task that is either solved or not: how many seeds did, when, and whether they kept it.

    Args:
        results: Documents of the result files, in the order of their rows.
    """
    if not results:
        return "No results yet."
    rows = []
    for result in results:
        metrics, seeds = result["metrics"], len(result["seeds"])
        right = next(metrics[name]["mean"] for name in ("test_accuracy", "test_within") if name in metrics)
        rows.append(
            (
                result_label(result),
                f"{sum(metrics['solved']['values']):.0f} of {seeds}",
                f"{100 * metrics['solved_after']['mean']:.0f}",
                f"{100 * metrics['stayed_solved']['mean']:.1f}",
                f"{100 * right:.2f}",
                str(result["settings"]["epochs"]),
                duration(result["cost"]["train_seconds"]),
                escaped("; ".join(result["departures"])) or "none",
            )
        )
    return markdown_table(_SOLVED_HEADS, rows)


def events_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a result on events in time; before the first one on a set of events, what needs no model of the past.

    Args:
        results: Documents of the result files, in the order of their rows.
    """
    if not results:
        return "No results yet."
    rows: list[tuple[str, ...]] = []
    told: list[str] = []
    for result in results:
        metrics, events = result["metrics"], result["settings"]["events"]
        if events not in told:
            told.append(events)
            floors = [f"{metrics[f'constant_{name}']['mean']:{form}}" for name, form in _IN_TIME.items()]
            right = [f"{100 * metrics[f'{name}_mark_accuracy']['mean']:.1f}" for name in ("constant", "repeat")]
            rows.append((f"{events}: {_CONSTANT}", *floors, right[0], "", "", "", ""))
            rows.append((f"{events}: {_REPEAT}", "", "", "", right[1], "", "", "", ""))
        rows.append(
            (
                result_label(result),
                *(spread(result, name, form, ".1g") for name, form in _IN_TIME.items()),
                f"{100 * metrics['mark_accuracy']['mean']:.1f}",
                f"{metrics['ks_distance']['mean']:.3f}",
                str(len(result["seeds"])),
                str(result["settings"].get("epochs", "")),
                duration(result["cost"]["train_seconds"]),
            )
        )
    return markdown_table(_EVENT_HEADS, rows)


def networks_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a result of an inferred network, beside closed forms on the same series.

    Args:
        results: Documents of the result files, in the order of their rows.
    """
    if not results:
        return "No results yet."
    rows = [
        (
            result_label(result),
            *(f"{result['metrics'][name]['mean']:.3g}" for name in _NETWORK_FIGURES),
            str(len(result["seeds"])),
            duration(result["cost"]["train_seconds"]),
        )
        for result in results
    ]
    return markdown_table(_NETWORK_HEADS, rows)


def intensities_table(results: Sequence[dict[str, Any]]) -> str:
    """One row an intensity of the light in cavity arrays: how many arrays solved their task, and their median cost.

    Args:
        results: Documents of the result files, each with two columns.
    """
    if not results:
        return "No results yet."
    heads, columns = ["Intensity, I₀"], []
    for result in results:
        label, metrics, many = result_label(result), result["metrics"], len(result["seeds"])
        heads += [f"{label}: solved", f"{label}: median cost"]
        arrays = result["settings"]["starts"] * many
        shares, costs = (metrics[f"{name}_by_intensity"]["mean"] for name in ("solved", "median_cost"))
        found = zip(result["settings"]["intensities"], shares, costs, strict=True)
        columns.append({value: (f"{share * arrays:.0f} of {arrays}", f"{cost:.1e}") for value, share, cost in found})
    values = sorted({value for column in columns for value in column})
    rows = [[f"{v:g}", *(cell for column in columns for cell in column.get(v, ("", "")))] for v in values]
    return markdown_table(heads, rows)


def comparison_table(document: Mapping[str, Any]) -> str:
    """One row a rule of a comparison, the most accurate first; those that could not take part at the end.

    Args:
        document: What compare.json holds.
    """
    rows: list[tuple[str, ...]] = []
    contenders = ranked(document)
    for name, each in contenders.items():
        accuracy, costs, angle = each["metrics"]["test_accuracy"], each["costs"], mean_angle(each)
        step = memory = saved = operations = ""
        if costs:
            step = f"{1e3 * costs['step_seconds']['median']:.1f}"
            memory = f"{costs['memory_bytes']['total'] / 2**20:.1f}"
            saved = f"{costs['saved_bytes'] / 2**20:.2f}"
            operations = f"{costs['operations'] / 1e9:.2g}"
        rows.append(
            (
                f"`{name}`",
                in_percent(accuracy),
                *(step, memory, saved, operations),
                "" if angle is None else f"{angle:.0f}",
                f"{each['chosen']['learning_rate']:g}" if "learning_rate" in each["chosen"] else "",
            )
        )
    rows += [(f"`{name}`", "not compared", *[""] * 6) for name, c in document["contenders"].items() if "failed" in c]
    where = document["environment"]
    budget, seeds = document["budget"], len(document["seeds"])
    told = (
        f"{seeds} seed{'s' * (seeds != 1)}, {budget} trials of the same search for each rule; "
        f"torch {where['versions']['torch']}, {where['device']}, "
        f"{where['threads']} thread{'s' * (where['threads'] != 1)}."
    )
    edges = edges_told(contenders)
    told += f"\n{edges}" if edges else ""
    return f"{markdown_table(_COMPARISON_HEADS, rows, left=('Rule',))}\n\n{told}"
