"""The pictures and the page of a comparison."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from beyondprop.report.comparison_document import Contenders, edges_told, mean_angle, ranked
from beyondprop.report.figures import in_percent
from beyondprop.report.page import environment_line, head, image, settings_table, surroundings_line, table
from beyondprop.report.results import COMPARISON, read_comparison
from beyondprop.training.curves import png

PICTURES = ("accuracy.png", "curves.png", "costs.png", "alignment.png")
MEMORY = {
    "parameters": "#4c72b0",
    "gradients": "#dd8452",
    "optimizer": "#8172b3",
    "inputs": "#937860",
    "activations": "#55a868",
}
MANY = 15  # of so many rules the seeds' own curves would be a thicket
DOT, MEAN, BASELINE = "#4c72b0", "#1f2d47", "#111111"


def draw_pictures(document: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw a comparison.

    Args:
        document: What compare.json holds.

    Returns:
        PNGs by the names of `PICTURES`; without costs or angles, where only solvers were compared.
    """
    contenders = ranked(document)
    stepped = {name: each for name, each in contenders.items() if each["costs"]}
    aligned = {name: each for name, each in contenders.items() if each["alignment"]}
    pictures = {"accuracy.png": _draw_accuracy(contenders), "curves.png": _draw_curves(contenders)}
    if stepped:
        pictures["costs.png"] = _draw_costs(stepped)
    if aligned:
        pictures["alignment.png"] = _draw_alignment(aligned)
    return pictures


def write_page(document: Mapping[str, Any], pictures: Mapping[str, bytes], waiting: Sequence[str] = ()) -> str:
    """Write a page that holds everything in itself: tables, pictures and what they mean.

    Args:
        document: What compare.json holds.
        pictures: As `draw_pictures` gives them.
        waiting: Names of rules whose turn is still to come.
    """
    contenders = ranked(document)
    failed = {name: each["failed"] for name, each in document["contenders"].items() if "failed" in each}
    for name, each in contenders.items():
        failed |= {f"{name}, seed {seed}": reason for seed, reason in each.get("failed_seeds", {}).items()}
    seeds, budget = len(document["seeds"]), document["budget"]
    tuned = (
        f"Each rule's learning rate and weight decay are the best of {budget} trial{'s' * (budget != 1)} of the same "
        "search, judged on training images that were held out; solvers have nothing to search. All trials have one "
        "seed, and so held-out images, of their own: their accuracies are not those of the seeds in the table."
        if budget
        else "No setting was tuned here: each rule has the learning rate of its own nearest recipe, where that has the "
        "same optimizer."
    )
    networks = {name: each["network"] for name, each in contenders.items() if each["network"]}
    still = f" Still to come: {html.escape(', '.join(waiting))}." if waiting else ""
    return PAGE.format(
        head=head(f"Learning rules side by side: {document['dataset']}"),
        lead=f"{len(contenders)} learning rule{'s' * (len(contenders) != 1)}, {seeds} seed{'s' * (seeds != 1)} each. "
        f"{tuned} Accuracies are those "
        f"of the last epoch on the test images, which decided nothing.{still}",
        summary=_summary(contenders),
        failed="" if not failed else f"<h3>Not compared</h3>{table(['', 'reason'], list(failed.items()), text=[1])}",
        accuracy=image(pictures, "accuracy.png", "Test accuracy of each rule, one dot a seed"),
        curves=image(pictures, "curves.png", "Accuracy against epochs, seconds and images"),
        costs=_picture(pictures, "costs.png", "Time and memory of a step by rule"),
        cost_table=_costs(contenders),
        sizes=_sizes(contenders),
        alignment=_picture(pictures, "alignment.png", "Angles to back-propagation's gradient by layer"),
        angles=_angles(contenders),
        trials=_trials(contenders) if budget else "",
        settings=settings_table({name: each["chosen"] for name, each in contenders.items()}),
        networks="".join(
            f"<h4>{html.escape(', '.join(name for name in networks if networks[name] == text))}</h4>"
            f"<pre>{html.escape(text)}</pre>"
            for text in dict.fromkeys(networks.values())
        ),
        environment=environment_line(document),
        timed=_timed(contenders),
    )


def page_anew(folder: Path) -> str:
    """Write the page of a finished comparison anew, with the pictures that stand there; without them they are drawn.

    Args:
        folder: That holds compare.json.

    Raises:
        UserError: The document cannot be read, or is no comparison's.
    """
    document = read_comparison(folder / COMPARISON)
    beside = {name: (folder / name).read_bytes() for name in PICTURES if (folder / name).exists()}
    return write_page(document, beside if beside.keys() >= {*PICTURES[:2]} else draw_pictures(document))


# ------------------------------------------------------------------------------------------------------------ pictures


def _colour(name: str, number: int) -> tuple[Any, Any]:
    """Back-propagation black, the others in colours that repeat with another kind of line."""
    if name.partition("/")[0] == "bp":
        return BASELINE, "-"
    return colormaps["tab10"](number % 10), ("-", "--", ":", "-.")[number // 10 % 4]


def _logarithmic(axes: Axes) -> None:
    """A logarithmic scale with few, plain numbers, however short."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0,) if high > 300 * low else (1.0, 3.0) if high > 10 * low else (1.0, 2.0, 5.0)
    short = high < 4 * low  # numbers of one decade stand closer than they can be read
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4) if short else LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_accuracy(contenders: Contenders) -> bytes:
    figure = Figure(figsize=(8.2, 1.1 + 0.32 * len(contenders)), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set(title="Test accuracy after the last epoch (%), one dot a seed", ylim=(len(contenders) - 0.5, -0.5))
    axes.title.set_fontsize(11)
    for row, each in enumerate(contenders.values()):
        found = each["metrics"]["test_accuracy"]
        values = [100 * value for value in found["values"]]
        axes.plot(values, [row] * len(values), "o", color=DOT, alpha=0.55, markersize=5, markeredgewidth=0)
        axes.plot([100 * found["mean"]] * 2, [row - 0.3, row + 0.3], color=MEAN, linewidth=2)
    axes.set_yticks(range(len(contenders)), list(contenders))
    axes.tick_params(axis="y", length=0)
    return png(figure, axes)


def _draw_curves(contenders: Contenders) -> bytes:
    figure = Figure(figsize=(12.5, max(4.6, 0.4 + 0.2 * len(contenders))), dpi=110, layout="constrained")  # every name
    panels = figure.subplots(1, 3, sharey=True)
    held_out = any("validation_accuracy" in each["metrics"] for each in contenders.values())
    many = len(contenders) > MANY
    panels[0].set_ylabel(f"accuracy on {'held-out' if held_out else 'training'} images (%){', mean of seeds' * many}")
    against = {"epoch": "epoch", "seconds": "seconds of training", "images": "images seen"}
    handles = []
    for number, (name, each) in enumerate(contenders.items()):
        colour, line = _colour(name, number)
        handles.append(Line2D([], [], color=colour, linestyle=line, label=name))
        curves = [_mean_curve(each["curves"])] if many else each["curves"]
        for axes, key in zip(panels, against, strict=True):
            for curve in curves:
                x, y = [point[key] for point in curve], [100 * point["accuracy"] for point in curve]
                marker = "o" if len(x) == 1 else None
                axes.plot(x, y, color=colour, linestyle=line, linewidth=1.3, alpha=0.85, marker=marker, markersize=5)
    for axes, (key, title) in zip(panels, against.items(), strict=True):
        axes.set_xlabel(title)
        if key == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        else:
            _logarithmic(axes)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return png(figure, *panels)


def _mean_curve(curves: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """One curve of several seeds, as far as all of them go."""
    return [
        {key: sum(point[key] for point in points) / len(points) for key in points[0]}
        for points in zip(*curves, strict=False)
    ]


def _draw_costs(contenders: Contenders) -> bytes:
    names = list(contenders)
    figure = Figure(figsize=(12.5, 1.5 + 0.32 * len(names)), dpi=110, layout="constrained")
    times, memory, operations = figure.subplots(1, 3, sharey=True)
    costs = [each["costs"] for each in contenders.values()]
    rows = range(len(names))
    median = [1e3 * cost["step_seconds"]["median"] for cost in costs]
    spread = [
        [abs(1e3 * cost["step_seconds"][q] - m) for cost, m in zip(costs, median, strict=True)] for q in ("low", "high")
    ]
    times.errorbar(median, rows, xerr=spread, fmt="o", color=DOT, markersize=6, elinewidth=1.2)
    times.set(title="time of a step (ms), quartiles", ylim=(len(names) - 0.5, -0.5))
    left = [0.0] * len(names)
    for kind, colour in MEMORY.items():
        sizes = [cost["memory_bytes"][kind] / 2**20 for cost in costs]
        memory.barh(rows, sizes, left=left, color=colour, height=0.65, label=kind)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    for row, total in zip(rows, left, strict=True):  # beside one long bar the others are hardly seen
        memory.text(total, row, f" {total:.3g}", va="center", fontsize=8)
    memory.margins(x=0.12)
    figure.legend(*memory.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    memory.set_title("most memory in a step (MiB)")
    operations.plot([cost["operations"] / 1e9 for cost in costs], rows, "o", color=DOT, markersize=6)
    operations.set_title("operations of a step (10⁹)")
    _logarithmic(times)  # dots, for a bar on a logarithmic scale begins nowhere
    if any(cost["operations"] for cost in costs):  # convolutions and products are counted, and a rule may have neither
        _logarithmic(operations)
    times.set_yticks(rows, names)
    for axes in (times, memory, operations):
        axes.title.set_fontsize(10.5)
        axes.tick_params(axis="y", length=0)
    return png(figure, times, memory, operations)


def _draw_alignment(contenders: Contenders) -> bytes:
    """A dot a layer, dark to bright from the input on."""
    names = list(contenders)
    figure = Figure(figsize=(8.2, 1.5 + 0.32 * len(names)), dpi=110, layout="constrained")
    axes = figure.subplots()
    highest = 90.0
    for row, each in enumerate(contenders.values()):
        angles = [layer["angle"]["mean"] for layer in each["alignment"].values()]
        highest = max(highest, *angles)
        colours = [colormaps["viridis"](0.9 * n / max(1, len(angles) - 1)) for n in range(len(angles))]
        axes.scatter(angles, [row] * len(angles), c=colours, s=26, zorder=3)
    axes.axvline(90, color="#404040", linewidth=1.0, linestyle="--")
    limit = 180 if highest > 100 else 100
    axes.set(xlim=(-2, limit), ylim=(len(names) - 0.5, -0.5), xticks=range(0, limit + 1, 30))
    axes.set_title("Angle of each layer's update to back-propagation's gradient (degrees)", fontsize=11)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    marks = [
        Line2D([], [], color=colormaps["viridis"](shade), marker="o", linestyle="", label=label)
        for shade, label in ((0.0, "first layer"), (0.9, "last layer"))
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return png(figure, axes)


# ---------------------------------------------------------------------------------------------------------------- page


def _picture(pictures: Mapping[str, bytes], name: str, what: str) -> str:
    return image(pictures, name, what) if name in pictures else ""


def _summary(contenders: Contenders) -> str:
    heads = ("", "test accuracy, %", "held-out, %", "training, s a seed", "step, ms", "memory, MiB", "mean angle, °")
    rows = []
    for name, each in contenders.items():
        costs, angle = each["costs"], mean_angle(each)
        step = f"{1e3 * costs['step_seconds']['median']:.2f}" if costs else "–"
        memory = f"{costs['memory_bytes']['total'] / 2**20:.1f}" if costs else "–"
        rows.append(
            [
                name,
                in_percent(each["metrics"]["test_accuracy"]),
                in_percent(each["metrics"].get("validation_accuracy")),
                f"{each['train_seconds']['mean']:.3g}",
                *(step, memory, "–" if angle is None else f"{angle:.0f}"),
            ]
        )
    return table(heads, rows)


def _costs(contenders: Contenders) -> str:
    """In numbers: steps in ms, memory in MiB by class, operations."""
    kinds = list(MEMORY)
    on_cuda = any("allocated_bytes" in each["costs"] for each in contenders.values() if each["costs"])
    allocated = ["allocated by CUDA"] if on_cuda else []
    heads = ("", "batch", "ms (quartiles)", *kinds, "kept for backward", *allocated, "operations, 10⁹", "parameters")
    rows = []
    for name, each in contenders.items():
        costs = each["costs"]
        if not costs:
            continue
        low, middle, high = (1e3 * costs["step_seconds"][q] for q in ("low", "median", "high"))
        rows.append(
            [
                name,
                str(costs["batch_size"]),
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                *(f"{costs['memory_bytes'][kind] / 2**20:.2f}" for kind in kinds),
                f"{costs['saved_bytes'] / 2**20:.2f}",
                *[f"{costs['allocated_bytes'] / 2**20:.2f}" if "allocated_bytes" in costs else "–"] * on_cuda,
                f"{costs['operations'] / 1e9:.3g}",
                f"{costs['parameters']:,}",
            ]
        )
    return table(heads, rows) if rows else ""


def _sizes(contenders: Contenders) -> str:
    """Who holds more or fewer parameters than others, whose accuracies then are of other networks."""
    held = {name: each["costs"]["parameters"] for name, each in contenders.items() if each["costs"]}
    if len(set(held.values())) < 2:
        return ""
    told = ", ".join(f"{html.escape(name)} {count:,}" for name, count in sorted(held.items(), key=lambda one: one[1]))
    return (
        f"<p>Rules hold different numbers of parameters: {told}. Feedback weights, classifiers of single layers and "
        "blocks that a rule brings with it are counted; most rules predict by the one network that is named below.</p>"
    )


def _timed(contenders: Contenders) -> str:
    """Where steps were timed, if it was noted: trainings that were only read may have run elsewhere."""
    places = [each["costs"]["environment"] for each in contenders.values() if "environment" in (each["costs"] or {})]
    lines = dict.fromkeys(html.escape(surroundings_line(where)) for where in places)
    return "".join(f"<p>Steps timed: {line}</p>" for line in lines)


def _angles(contenders: Contenders) -> str:
    """A table for each rule, folded in: one with blocks has over a hundred layers."""
    tables = []
    for name, each in contenders.items():
        rows = [
            [
                layer,
                f"{figures['angle']['mean']:.1f}",
                "–" if figures["norm_ratio"]["mean"] is None else f"{figures['norm_ratio']['mean']:.3g}",
            ]
            for layer, figures in each["alignment"].items()
        ]
        if rows:
            held = f"{html.escape(name)}, {len(rows)} layer{'s' * (len(rows) > 1)}"
            drawn = table(["layer", "angle, degrees", "norm ratio"], rows)
            tables.append(f"<details><summary>{held}</summary>{drawn}</details>")
    return "".join(tables)


def _trials(contenders: Contenders) -> str:
    rows = [
        [
            f"{name}: {number}",
            f"{trial['learning_rate']:g}",
            f"{trial['weight_decay']:g}",
            "not finite" if trial["validation_accuracy"] is None else f"{100 * trial['validation_accuracy']:.2f}",
        ]
        for name, each in contenders.items()
        for number, trial in enumerate(each["trials"], start=1)
    ]
    heads = ["trial", "learning rate", "weight decay", "held-out accuracy, %"]
    told = edges_told(contenders)
    edges = f"<p>{html.escape(told)}</p>" if told else ""
    return f"{edges}<details><summary>All trials</summary>{table(heads, rows)}</details>"


PAGE = """{head}
<p>{lead}</p>
{summary}
{failed}
<h2>Accuracy</h2>
{accuracy}
<p>What is learned from one pass, from one second and from one image are three questions, and rules answer them
differently: one that trains its layers one after another goes over the images once for each.</p>
{curves}
<h2>What a step costs</h2>
<p>A step is all that a rule does with one batch in one epoch: every stage and phase, each with the optimizer's step.
Time is the median of warm steps with its quartiles. Memory is the most that live tensors hold at any one time, by what
they are at that moment, counted tensor by tensor and so the same on every machine; that no backward pass through the
network is made does not by itself make it less. Kept for backward is what autograd alone holds, of which forward-only
rules have none. Operations are those of matrix products and convolutions, a multiplication and an addition counting as
two.</p>
{costs}
{sizes}
<details><summary>In numbers (memory in MiB)</summary>{cost_table}</details>
<h2>How far from the gradient?</h2>
<p>After the last epoch, on one batch of training images: the angle between what a rule would subtract from a layer's
weights and back-propagation's gradient of the loss. Below 90 degrees (dashed) a small step lowers the loss. Rules whose
prediction is no differentiable function of their weights have no angle.</p>
{alignment}
{angles}
<h2>What was trained</h2>
{trials}
<details><summary>Settings</summary>{settings}</details>
<details><summary>Networks</summary>{networks}</details>
<p>Trained: {environment}</p>
{timed}
</html>
"""
