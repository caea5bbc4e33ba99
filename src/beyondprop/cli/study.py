"""`beyondprop study [RECIPE ...]`."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from beyondprop.catalogue import find_recipe
from beyondprop.cli.arguments import SWITCHES, parse
from beyondprop.cli.output import aligned, note, say, say_json, told_how_to_go_on
from beyondprop.recipes.recipe import Recipe
from beyondprop.training.execution import Execution

DEFAULT = ("bp/digits-mlp", "fa/digits", "dfa/digits", "drtp/digits", "sdfa/digits", "sdfa/digits-centred")
AUTO = "auto"  # each recipe's own

HELP = f"""Trains several recipes of one network and data set from several seeds, and compares what they become: how
much predictions change from seed to seed, how far rules agree, and how alike their hidden neurons are. Writes a page
with pictures and study.json. The same command run again goes on where it was interrupted.

The recipes come first and decide which flags there are: the settings that all of them share (default:
{", ".join(DEFAULT)}). A setting that is not given stays as each recipe has it.

Examples:
  beyondprop study
  beyondprop study bp/digits-mlp fa/digits dfa/digits --seeds 5 --out studies/digits
  beyondprop study bp/mnist-mlp fa/mnist dfa/mnist --epochs 3 --hidden 500 --out studies/mnist
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """How often each is trained, and where the study goes."""

    seeds: int = 3
    """Number of seeds, from 0 on; at least 2."""
    out: Path = Path("study")
    """Folder of study.json, the page and its pictures."""
    replace: bool = False
    """Overwrite another study in that folder."""
    json: bool = False
    """Print the study as one JSON object on the last line of stdout."""
    quiet: bool = False
    """Show no progress and no summary."""


def run(argv: list[str]) -> None:
    """Run the command."""
    names, flags = _split_recipes(argv)
    recipes = [find_recipe(name) for name in names]
    _, given = parse(
        flags,
        shlex.join(["beyondprop", "study", *names]),
        HELP,
        without=("seed",),
        shared=_shared_settings(recipes),
        execution=Execution(),
        output=Output(),
    )
    from beyondprop.study import study  # noqa: PLC0415  # it imports torch, which --help does without

    output: Output = given.output
    chosen = {f.name: getattr(given.shared, f.name) for f in fields(given.shared)}
    try:
        document = study(
            recipes,
            {name: value for name, value in chosen.items() if value not in (None, AUTO)},
            given.execution,
            seeds=output.seeds,
            out=output.out,
            overwrite=output.replace,
            progress=not output.quiet,
            tell=(lambda _line: None) if output.quiet else note,
        )
    except KeyboardInterrupt as interrupt:
        raise told_how_to_go_on(interrupt, "the same command goes on from there") from None
    if output.json:
        say_json({**document, "folder": str(output.out)})
    elif not output.quiet:
        _summarise(document, output.out)


def _split_recipes(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take the words at the front; switches may stand before and between them."""
    front = list(itertools.takewhile(lambda word: not word.startswith("-") or word in SWITCHES, argv))
    names = [word for word in front if not word.startswith("-")]
    switches = [word for word in front if word.startswith("-")]
    return names or list(DEFAULT), [*switches, *argv[len(front) :]]


def _shared_settings(recipes: list[Recipe]) -> Any:
    """The settings that all recipes have: a value that all share, or `auto` where they differ (None, but for words)."""
    kinds = [type(recipe.settings).__mro__ for recipe in recipes]
    common = next(kind for kind in kinds[0] if all(kind in others for others in kinds))
    hints = get_type_hints(common)
    described = []
    for f in fields(common):
        kind, values = hints[f.name], {getattr(recipe.settings, f.name) for recipe in recipes}
        default = values.pop() if len(values) == 1 else AUTO if get_origin(kind) is Literal else None
        if default == AUTO:
            kind = Literal[(AUTO, *get_args(kind))]
        described.append((f.name, kind if default is not None else kind | None, field(default=default)))
    return make_dataclass("Shared", described, bases=(common,), frozen=True, kw_only=True)()


def _summarise(document: dict[str, Any], out: Path) -> None:
    heads = ("", "test accuracy", "churn", "kappa")
    rows = []
    for name in document["recipes"]:
        accuracy, stability = document["accuracy"][name], document["stability"][name]
        share = [f"{100 * each['mean']:.2f} ± {100 * each['std']:.2f} %" for each in (accuracy, stability["churn"])]
        rows.append((name, *share, f"{stability['kappa']['mean']:.3f}"))
    say(aligned([heads, *rows], indent=""))
    say(f"page  {out / 'index.html'}")
