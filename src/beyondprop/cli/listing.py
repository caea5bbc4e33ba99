"""`beyondprop list`."""

from __future__ import annotations

from dataclasses import dataclass

from beyondprop.catalogue import SYSTEMS, System
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import aligned, say, say_json

HELP = """Names every system of the library with its paper and its recipes. A recipe is an experiment,
SYSTEM/VARIANT, that `train` and `reproduce` take.

Examples:
  beyondprop list
  beyondprop list --json
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed."""

    json: bool = False
    """Print one JSON object instead of text."""


def run(argv: list[str]) -> None:
    """Run the command."""
    _, given = parse(argv, "beyondprop list", HELP, output=Output())
    if given.output.json:
        say_json({"systems": [_entry(system) for system in SYSTEMS]})
        return
    for number, system in enumerate(SYSTEMS):
        if number:
            say()
        paper = system.paper
        say(f"{system.id}: {system.name} ({system.family})")
        say(f"  {paper.title}, {paper.year}{f', {paper.url}' if paper.url else ''}")
        say(aligned([(recipe.id, recipe.summary) for recipe in system.recipes], indent="    "))


def _entry(system: System) -> dict[str, object]:
    return {
        "id": system.id,
        "name": system.name,
        "family": system.family,
        "paper": {"title": system.paper.title, "arxiv": system.paper.arxiv},
        "recipes": [recipe.id for recipe in system.recipes],
    }
