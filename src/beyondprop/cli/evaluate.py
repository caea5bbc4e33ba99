"""`beyondprop evaluate RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beyondprop import training
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import aligned, say, say_json
from beyondprop.errors import UserError
from beyondprop.reproduce import runs_root

HELP = """Measures a trained run on a split of its data, with the weights of its last checkpoint: accuracy and loss by
the recipe's own inference, and what else the recipe measures, such as each block alone beside the whole chain. RUN
is a run folder, or its path below $BEYONDPROP_RUNS.

Examples:
  beyondprop evaluate runs/mine
  beyondprop evaluate noprop-dt/digits/seed-0 --split train --json
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is measured and printed."""

    split: Literal["test", "validation", "train"] = "test"
    """Images to measure on; validation needs a run that held some out."""
    device: str | None = None
    """Where it is computed; by default as the run was."""
    json: bool = False
    """Print the figures as one JSON object on the last line of stdout."""


def run(argv: list[str]) -> None:
    """Run the command."""
    words, given = parse(argv, "beyondprop evaluate RUN", HELP, words=1, output=Output())
    if not words:
        raise UserError("evaluate needs a run folder: beyondprop evaluate RUN (see `beyondprop evaluate --help`)")
    output: Output = given.output
    folder = _find(words[0])
    loaded = training.load_run(folder, device=output.device)
    figures, measures = _measure(loaded, output.split)
    if output.json:
        about = {"recipe": loaded.recipe.id, "folder": str(folder), "split": output.split}
        say_json({**about, **figures, **measures})
        return
    say(f"{loaded.recipe.id}, {output.split} split: {figures['count']} images, {folder}")
    single = {"accuracy": figures["accuracy"], "loss": figures["loss"]}
    single |= {name: value for name, value in measures.items() if not isinstance(value, list)}
    say(aligned([(_words(name), _figure(name, value)) for name, value in single.items()]))
    for name, values in measures.items():
        if isinstance(values, list):
            say(f"\n{_words(name)}")
            part = name.split("_")[0]  # "block" in block_test_accuracy
            rows = [(f"{part} {number}", _figure(name, value)) for number, value in enumerate(values, 1)]
            say(aligned([*rows, ("whole network", _figure("accuracy", figures["accuracy"]))]))


def _find(word: str) -> Path:
    for folder in (Path(word), runs_root() / word):
        if folder.is_dir():
            return folder
    raise UserError(f"there is no run folder {word}, nor one of this name below {runs_root()}")


def _measure(loaded: Any, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracy and loss, and the recipe's own measures under names that say the split."""
    images = {"test": loaded.splits.test, "train": loaded.splits.train, "validation": loaded.validation}[split]
    if images is None:
        raise UserError("this run held no images out, so it has no validation split: train with --validation COUNT")
    measured = loaded.measures(images)
    return loaded.evaluate(images), {name.replace("test", split): value for name, value in measured.items()}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if "accuracy" in name else f"{value:.4g}"
