"""`beyondprop study [RECIPE ...]`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beyondprop.catalogue import find_recipe
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import aligned, note, say, say_json, told_how_to_go_on
from beyondprop.cli.several import chosen_settings, shared_settings, split_words
from beyondprop.training.execution import Execution

DEFAULT = ("bp/digits-mlp", "fa/digits", "dfa/digits", "drtp/digits", "sdfa/digits", "sdfa/digits-centred")

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
    words, flags = split_words(argv)
    names = words or list(DEFAULT)
    recipes = [find_recipe(name) for name in names]
    _, given = parse(
        flags,
        shlex.join(["beyondprop", "study", *names]),
        HELP,
        without=("seed",),
        shared=shared_settings(recipes),
        execution=Execution(),
        output=Output(),
    )
    from beyondprop.study import study  # noqa: PLC0415  # it imports torch, which --help does without

    output: Output = given.output
    try:
        document = study(
            recipes,
            chosen_settings(given.shared),
            given.execution,
            seeds=output.seeds,
            out=output.out,
            overwrite=output.replace,
            progress=not output.quiet,
            tell=(lambda _line: None) if output.quiet else note,
        )
    except KeyboardInterrupt as interrupt:
        raise told_how_to_go_on(interrupt, "the same command goes on from there", several=True) from None
    if output.json:
        say_json({**document, "folder": str(output.out)})
    elif not output.quiet:
        _summarise(document, output.out)


def _summarise(document: dict[str, Any], out: Path) -> None:
    heads = ("", "test accuracy", "churn", "kappa")
    rows = []
    for name in document["recipes"]:
        accuracy, stability = document["accuracy"][name], document["stability"][name]
        share = [f"{100 * each['mean']:.2f} ± {100 * each['std']:.2f} %" for each in (accuracy, stability["churn"])]
        rows.append((name, *share, f"{stability['kappa']['mean']:.3f}"))
    say(aligned([heads, *rows], indent=""))
    say(f"page  {out / 'index.html'}")
