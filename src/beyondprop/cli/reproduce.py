"""`beyondprop reproduce RECIPE --seeds N`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beyondprop.catalogue import find_recipe
from beyondprop.cli.arguments import parse, some_settings, split_recipe, with_examples
from beyondprop.cli.output import say, say_json, told_how_to_go_on
from beyondprop.reproduce import reproduce
from beyondprop.training.execution import Execution

HELP = """Trains seeds 0 to N-1 of a recipe, each in a run folder of its own, and writes results/ID/VARIANT.json:
every seed's metrics beside the paper's numbers, with settings, versions, hardware and cost. The same command run
again goes on where it was interrupted. Where a recipe has an embedding, another one than its own is written beside,
to ID/VARIANT-EMBEDDING.json."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """How often it is trained, and where the result goes."""

    seeds: int = 3
    """Number of seeds, from 0 on."""
    results: Path = Path("results")
    """Folder of the result files."""
    suffix: str | None = None
    """Write ID/VARIANT-SUFFIX.json; by default the embedding where it was changed, else nothing."""
    replace: bool = False
    """Overwrite a result of more seeds or more epochs."""
    json: bool = False
    """Print the result as one JSON object on the last line of stdout."""
    quiet: bool = False
    """Show no progress and no summary."""


def run(argv: list[str]) -> None:
    """Run the command."""
    recipe_id, flags = split_recipe(argv, None)
    recipe = find_recipe(recipe_id)
    beside = "--embedding prototype" if hasattr(recipe.settings, "embedding") else "--batch-size 64 --suffix mine"
    _, given = parse(
        flags,
        f"beyondprop reproduce {recipe_id}",
        with_examples(
            HELP, "reproduce", recipe, "--seeds 3", f"--seeds 3 {some_settings(recipe)}", f"--seeds 3 {beside}"
        ),
        without=("seed",),
        recipe=recipe.settings,
        execution=Execution(),
        output=Output(),
    )
    output: Output = given.output
    try:
        path, result = reproduce(
            recipe,
            given.recipe,
            given.execution,
            seeds=output.seeds,
            results=output.results,
            suffix=output.suffix,
            overwrite=output.replace,
            progress=not output.quiet,
        )
    except KeyboardInterrupt as interrupt:
        raise told_how_to_go_on(interrupt, "the same command goes on from there", several=True) from None
    if output.json:
        say_json({**result, "file": str(path)})
    elif not output.quiet:
        _summarise(path, result)


def _summarise(path: Path, result: dict[str, Any]) -> None:
    metrics, seeds = result["metrics"], f"(seeds: {len(result['seeds'])})"
    if "test_accuracy" not in metrics:
        for name, figure in metrics.items():
            say(f"{name:15}{figure['mean']:.4g} ± {figure['std']:.2g} {seeds}")
    else:
        accuracy = metrics["test_accuracy"]
        say(f"test accuracy  {100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f} % {seeds}")
    if result["paper"] and "test_accuracy" in result["paper"]:
        say(f"paper          {100 * result['paper']['test_accuracy']:.2f} % ({result['paper']['source']})")
    for departure in result["departures"]:
        say(f"departure      {departure}")
    say(f"result file    {path}")
