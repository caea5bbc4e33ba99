"""The page that goes with a trained rule that is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from beyondprop.catalogue import find_recipe, find_system
from beyondprop.report.changes import as_json, changed_flags
from beyondprop.report.figures import in_figures, in_words
from beyondprop.report.markdown import markdown_table

LOADING = """```python
from beyondprop import load_exported

model = load_exported("FOLDER")  # this folder; nothing in it is executed
scores = model.predict(x)  # {inputs}
```"""


def write_card(about: dict[str, Any], *, picture: str | None) -> str:
    """Write the card.

    Args:
        about: What export.json says.
        picture: Name of a picture beside it, or None.
    """
    recipe, seed = find_recipe(about["recipe"]), about["execution"]["seed"]
    system = find_system(recipe.id.partition("/")[0])
    paper, data, settings = system.paper, about["data"], about["settings"]
    defaults = asdict(recipe.settings)
    changed = changed_flags(settings, defaults)
    flags = f" {changed}" if changed else ""
    link = f"[{paper.title}]({paper.url})" if paper.url else paper.title
    inputs = "inputs as its recipe makes them" if data is None else f"uint8, shape (N, {_listed(data['shape'])})"
    if data is not None and data["dtype"] != "uint8":
        inputs = f"floating point, shape (N, {_listed(data['shape'])})"
    parts = [
        f"---\nlibrary_name: beyondprop\ntags:\n- beyondprop\n- {system.id}\n- {recipe.dataset}\n---",
        f"# {system.name} on {recipe.dataset}",
        f"Trained by beyondprop with the recipe `{recipe.id}`: {recipe.summary}. {_changes(changed)}The "
        f"rule is that of {link} ({paper.authors}, {paper.year}).",
        LOADING.format(inputs=inputs),
        f"## Results\n\nFigures of the last epoch, by seed; the weights here are those of seed {seed}.",
        _results(about["runs"]),
    ]
    if picture is not None:
        parts.append(f"![Losses and accuracy of seed {seed} while it was trained]({picture})")
    parts += ["## Data", _data(recipe.dataset, data, settings)]
    departures = [f"- {departure}" for departure in about["departures"]]
    if departures:
        parts += ["## Departures from the paper", "\n".join(departures)]
    rows = [(f"`{name}`", f"`{value}`", _default(value, defaults.get(name))) for name, value in settings.items()]
    parts += ["## Settings", table(("setting", "value", "the recipe's own"), rows)]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    commits = ", ".join(f"`{commit}`" for commit in about["commits"]) or "not known"
    seconds = about["train_seconds"]
    parts += [
        "## Training",
        f"{versions}, on {about['device']}, in {seconds:.{1 if seconds < 10 else 0}f} seconds and precision "
        f"{about['execution']['precision']}. Commits of the library: {commits}. The weights are "
        f"{len(about['weights']['tensors'])} tensors.",
        "To train it anew:",
        f"```sh\nbeyondprop train {recipe.id}{flags} --seed {seed}\n```",
        "## Citation",
        f"```bibtex\n{paper.bibtex}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _changes(changed: str) -> str:
    return f"Of its settings these were changed: `{changed}`. " if changed else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of words; bars within cells are kept apart from those of the table."""
    return markdown_table(heads, [[cell.replace("|", "\\|") for cell in row] for row in rows], left=heads)


def _results(runs: list[dict[str, Any]]) -> str:
    names = [name for name, value in runs[0]["metrics"].items() if isinstance(value, int | float)]
    rows = [(str(run["seed"]), *(in_figures(name, run["metrics"].get(name)) for name in names)) for run in runs]
    return table(("seed", *map(in_words, names)), rows)


def _data(name: str, data: dict[str, Any] | None, settings: dict[str, Any]) -> str:
    if data is None:
        return f"`{name}`, which the recipe makes from its settings."
    held_out = f", without {settings['validation']} that were held out" if settings.get("validation") else ""
    return (
        f"`{name}`: {data['samples']} training samples of shape ({_listed(data['shape'])}) in {data['classes']} classes"
        f"{held_out}. They are normalised by the training set's mean and deviation, which `export.json` holds and "
        "`predict` applies."
    )


def _default(value: Any, default: Any) -> str:
    return "" if as_json(value) == as_json(default) else f"`{default}`"


def _listed(shape: list[int]) -> str:
    return ", ".join(map(str, shape))
