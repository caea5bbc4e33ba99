"""`beyondprop compare [RECIPE ...]`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from beyondprop.catalogue import compared_recipe, find_recipe, find_system
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import aligned, note, say, say_json, told_how_to_go_on
from beyondprop.cli.several import chosen_settings, shared_settings, split_words
from beyondprop.errors import UserError
from beyondprop.recipe import Recipe, Settings
from beyondprop.recipes.classifiers import NetworkName
from beyondprop.report.figures import in_percent
from beyondprop.training.execution import Execution

RULES = "bp,fa,dfa,drtp,mono-forward,cafo,ff,ep"
DATA, NETWORK = "digits", "mlp"

HELP = f"""Trains several rules on the same data and lays them side by side on one page: accuracy with its spread,
against epochs, seconds and images; time, memory and operations of a step; the angle to back-propagation's gradient;
what was chosen, and what could not be trained and why. Writes the page, its pictures and compare.json. The same command
run again goes on where it was interrupted.

Without recipes, the rules of --rules are trained with their own defaults on the network and data that are named
(default: --rules {RULES} --data {DATA} --network {NETWORK}). With recipes, which come first and must be of one
data set, each is trained as it is. The flags below are the settings that all of them share; one that is not given stays
as each has it.

With --budget every rule gets the same number of trials of the same search over learning rate and weight decay, judged
on training images that are held out.

Examples:
  beyondprop compare
  beyondprop compare --rules bp,noprop-dt,dfa --data mnist --network conv --epochs 3 --budget 5
  beyondprop compare bp/digits-mlp fa/digits dfa/digits --seeds 5 --out comparisons/digits
"""


@dataclass(frozen=True, kw_only=True)
class Field:
    """What is compared, where no recipes are named."""

    rules: str = RULES
    """Ids of systems with commas between them; `beyondprop list` names all."""
    data: str = DATA
    """digits, mnist, fashion-mnist, cifar-10 or cifar-100."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """How much is trained, and where the comparison goes."""

    seeds: int = 3
    """Number of seeds, from 0 on."""
    budget: int = 0
    """Trials of the search for every rule, by Optuna (pip install "beyondprop[tuning]"); 0 takes the settings as they
    are."""
    trial_epochs: int | None = None
    """Epochs of a trial, with --budget; by default as many as the training has."""
    out: Path = Path("compare")
    """Folder of compare.json, the page and its pictures."""
    replace: bool = False
    """Overwrite another comparison in that folder."""
    json: bool = False
    """Print the comparison as one JSON object on the last line of stdout."""
    quiet: bool = False
    """Show no progress and no summary."""


def run(argv: list[str]) -> None:
    """Run the command."""
    names, flags = split_words(argv)
    recipes = [find_recipe(name) for name in names] if names else _of_rules(flags)
    stepped = [recipe for recipe in recipes if isinstance(recipe.settings, Settings)]
    _, given = parse(
        flags,
        shlex.join(["beyondprop", "compare", *names]),
        HELP,
        without=("seed",),
        shared=shared_settings(stepped or recipes),
        execution=Execution(),
        output=Output(),
        field=None if names else Field(),
    )
    # They import torch, which --help does without.
    from beyondprop.comparison import compare, recipe_contenders, rule_contenders  # noqa: PLC0415

    output: Output = given.output
    changed = chosen_settings(given.shared)
    if names:
        contenders = recipe_contenders(recipes, changed)
    else:
        rules = _rules(given.field.rules)
        contenders = rule_contenders(rules, given.field.data, changed.get("network", NETWORK), changed)
    try:
        document = compare(
            contenders,
            given.execution,
            seeds=output.seeds,
            budget=output.budget,
            trial_epochs=output.trial_epochs,
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


def _of_rules(flags: Sequence[str]) -> list[Recipe]:
    """The recipes of the rules that the flags name: they decide which flags there are, so they are read first."""
    rules = _rules(_value(flags, "--rules", RULES))
    data, network = _value(flags, "--data", DATA), _value(flags, "--network", NETWORK)
    if network not in get_args(NetworkName):
        network = NETWORK  # the parser tells which there are
    return [compared_recipe(find_system(rule), data, network) for rule in rules]


def _value(flags: Sequence[str], name: str, default: str) -> str:
    """What a flag is given, by a word of its own or behind an equals sign; the last one counts."""
    found = default
    for word, following in zip(flags, [*flags[1:], ""], strict=True):
        if word == name and following and not following.startswith("-"):
            found = following
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def _rules(text: str) -> list[str]:
    rules = [word.strip() for word in text.split(",") if word.strip()]
    if not rules:
        raise UserError("--rules needs the ids of systems with commas between them, such as bp,dfa")
    return rules


def _summarise(document: dict[str, Any], out: Path) -> None:
    rows = [("", "test accuracy", "step", "memory", "training", "learning rate")]
    for name, each in document["contenders"].items():
        if "failed" in each:
            rows.append((name, "not compared", "", "", "", ""))
            continue
        accuracy, costs = each["metrics"]["test_accuracy"], each["costs"]
        rows.append(
            (
                name,
                f"{in_percent(accuracy)} %",
                f"{1e3 * costs['step_seconds']['median']:.1f} ms" if costs else "-",
                f"{costs['memory_bytes']['total'] / 2**20:.1f} MiB" if costs else "-",
                f"{each['train_seconds']['mean']:.3g} s",
                f"{each['chosen']['learning_rate']:g}" if "learning_rate" in each["chosen"] else "-",
            )
        )
    say(aligned(rows, indent=""))
    for name, each in document["contenders"].items():
        if "failed" in each:
            say(f"{name}: {each['failed']}")
    say(f"page  {out / 'index.html'}")
