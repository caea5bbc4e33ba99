"""`beyondprop evaluate RUN`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.checks import check
from beyondprop.cli.arguments import AS_THE_RUN, parse
from beyondprop.cli.output import aligned, in_figures, in_words, say, say_json
from beyondprop.cli.runs import find_run, look_for_run
from beyondprop.errors import RunError, UserError
from beyondprop.recipe import Recipe, SolverSettings

EXPORT = "export.json"  # which tells an export from a run

HELP = """Measures a trained run on a split of its data, with the weights of its last checkpoint: accuracy and loss by
the recipe's own inference, and what else the recipe measures, such as each block alone beside the whole chain. RUN
is a run folder, or its path below $BEYONDPROP_RUNS, or what `beyondprop export` has written; it comes first.

What a recipe's settings say of its inference can be changed here, by flags of the same names: `beyondprop evaluate
RUN --help` shows those of the run's recipe, and --chip or --file where that may have moved. Several numbers of steps
give a table, and a picture in the run folder.

Examples:
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is measured and printed."""

    split: Literal["test", "validation", "train"] = "test"
    """Images to measure on; validation needs a run that held some out."""
    steps: Annotated[tuple[int, ...], AS_THE_RUN] = ()
    """From noise to label, for recipes that take any number of steps to predict."""
    device: Annotated[str, AS_THE_RUN] = "auto"
    """Where it is computed: auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, ..."""
    json: bool = False
    """Print the figures as one JSON object on the last line of stdout."""


def run(argv: list[str]) -> None:
    """Run the command."""
    first = argv[0] if argv and not argv[0].startswith("-") else ""
    named = look_for_run(first) if first else None
    recipe, settings, device, movable = (None, None, "auto", ()) if named is None else _stored(named)
    groups: dict[str, Any] = {"output": Output(device=device)}
    hidden: tuple[str, ...] = ()
    if recipe is not None:
        shown = {name for name in recipe.inference if name != "steps"}.union(movable)
        hidden = tuple(f"recipe.{f.name}" for f in fields(recipe.settings) if f.name not in shown)
        groups = {"recipe": settings, **groups} if shown else groups
    words, given = parse(argv, "beyondprop evaluate RUN", _help(first, recipe), words=1, without=hidden, **groups)
    if not words:
        raise UserError("evaluate needs a run folder: beyondprop evaluate RUN (see `beyondprop evaluate --help`)")
    output: Output = given.output
    folder = find_run(words[0])
    if output.steps and recipe is not None and "steps" not in recipe.inference:
        raise UserError(f"{recipe.id} does not choose its steps when it predicts: leave --steps out")
    for steps in output.steps:
        check(steps=steps)
    if (folder / EXPORT).exists():
        loaded = training.load_exported_run(folder, device=output.device)
    else:
        moved = {name: getattr(given.recipe, name) for name in movable}
        loaded = training.load_run(folder, device=output.device, moved=moved)
    chosen = {name: getattr(given.recipe, name) for name in loaded.recipe.inference if name != "steps"}
    changed = bool(output.steps) or any(getattr(settings, name) != value for name, value in chosen.items())
    loaded.experiment.inference |= chosen
    if len(output.steps) > 1:
        _tell_by_steps(loaded, folder, output)
    else:
        loaded.experiment.inference |= {"steps": output.steps[0]} if output.steps else {}
        _tell(loaded, folder, output, with_measures=not changed)


def _tell(loaded: Any, folder: Path, output: Output, *, with_measures: bool) -> None:
    """Accuracy, loss and, where the run's own inference is asked for, the recipe's measures."""
    images = _images(loaded, output.split)
    figures = loaded.evaluate(images)
    measures = loaded.measures(images) if with_measures else {}
    measures = {name.replace("test", output.split): value for name, value in measures.items()}
    if output.json:
        say_json({**_about(loaded, folder, output), **figures, **measures})
        return
    say(f"{loaded.recipe.id}, {output.split} split: {figures['count']} samples, {folder}")
    if not any((folder / name).exists() for name in ("result.json", EXPORT)):
        say("the run is not finished: these are the weights of its last checkpoint")
    single = {name: value for name, value in figures.items() if name != "count"}
    single |= {name: value for name, value in measures.items() if not isinstance(value, list)}
    say(aligned([(in_words(name), in_figures(name, value)) for name, value in single.items()]))
    for name, values in measures.items():
        if isinstance(values, list):
            say(f"\n{in_words(name)}")
            part = "block" if name.startswith("block_") else "layer"
            rows = [(f"{part} {number}", in_figures(name, value)) for number, value in enumerate(values, 1)]
            if "accuracy" in name:
                rows.append(("whole network", in_figures("accuracy", figures["accuracy"])))
            say(aligned(rows))


def _tell_by_steps(loaded: Any, folder: Path, output: Output) -> None:
    """A table and a picture of accuracy against steps."""
    from beyondprop.training.atomic import write_file  # noqa: PLC0415  # they import torch and matplotlib
    from beyondprop.training.curves import draw_accuracy_by_steps  # noqa: PLC0415

    images, figures = _images(loaded, output.split), {}
    for steps in sorted(set(output.steps)):
        loaded.experiment.inference["steps"] = steps
        figures[steps] = loaded.evaluate(images)
    accuracies = {steps: figure["accuracy"] for steps, figure in figures.items()}
    picture = folder / "steps.png"
    write_file(picture, draw_accuracy_by_steps(accuracies, len(images), f"{loaded.recipe.id}, {output.split} split"))
    if output.json:
        by_steps = {str(steps): figure for steps, figure in figures.items()}
        say_json({**_about(loaded, folder, output), "by_steps": by_steps, "picture": str(picture)})
        return
    say(f"{loaded.recipe.id}, {output.split} split: {len(images)} samples, {folder}")
    rows = [(str(n), in_figures("accuracy", f["accuracy"]), in_figures("loss", f["loss"])) for n, f in figures.items()]
    say(aligned([("steps", "accuracy", "loss"), *rows]))
    say(f"picture  {picture}")


def _about(loaded: Any, folder: Path, output: Output) -> dict[str, Any]:
    inference = {name: value for name, value in loaded.experiment.inference.items() if len(output.steps) < 2}
    return {"recipe": loaded.recipe.id, "folder": str(folder), "split": output.split, "inference": inference}


def _help(run: str, recipe: Recipe | None) -> str:
    """The help with examples of a run, or of what runs there could be."""
    if recipe is None:
        steps = "noprop-fm/digits/seed-0 --steps 1 2 5 20 1000 --method heun"
        return f"{HELP}  beyondprop evaluate runs/mine\n  beyondprop evaluate {steps}\n"
    flags = ["", " --split train --json"]
    if "steps" in recipe.inference:
        flags.append(" --steps 1 2 5 20 1000")
    return HELP + "".join(f"  beyondprop evaluate {shlex.quote(run)}{words}\n" for words in flags)


def _stored(folder: Path) -> tuple[Recipe | None, SolverSettings | None, str, tuple[str, ...]]:
    """Recipe, settings for inference, device and movable settings of a run; None where loading it will tell why."""
    from beyondprop.training.exported import read_about  # noqa: PLC0415  # they import torch
    from beyondprop.training.run_folder import MOVABLE, read_settings  # noqa: PLC0415

    exported = (folder / EXPORT).exists()
    try:
        stored = read_about(folder) if exported else read_settings(folder)
        recipe, device = find_recipe(stored["recipe"]), str(stored["execution"].get("device", "auto"))
    except (RunError, UserError, KeyError):
        return None, None, "auto", ()
    movable = tuple(f.name for f in fields(recipe.settings) if f"settings.{f.name}" in MOVABLE and not exported)
    known = {n: stored["settings"][n] for n in (*recipe.inference, *movable) if n in stored["settings"]}
    return recipe, replace(recipe.settings, **known), device, movable


def _images(loaded: Any, split: str) -> Any:
    images = {"test": loaded.splits.test, "train": loaded.splits.train, "validation": loaded.validation}[split]
    if images is None:
        raise UserError("this run held no images out, so it has no validation split: train with --validation COUNT")
    return images
