"""`beyondprop cite RULE...`."""

from __future__ import annotations

from dataclasses import dataclass

from beyondprop.catalogue import SYSTEMS, find_system
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import say
from beyondprop.errors import UserError

HELP = """Prints the BibTeX entries of the papers that rules and solvers come from. RULE is a system's name as
`beyondprop list` has it; a paper of several of them is printed once.

Examples:
  beyondprop cite dfa
  beyondprop cite noprop-dt noprop-ct dfa
  beyondprop cite --all
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed."""

    all: bool = False
    """The papers of every system."""


def run(argv: list[str]) -> None:
    """Run the command."""
    words, given = parse(argv, "beyondprop cite RULE...", HELP, words=-1, output=Output())
    if given.output.all and words:
        raise UserError(f"--all names every rule already: leave {words[0]!r} out, or --all")
    if not given.output.all and not words:
        raise UserError("cite needs rules, such as dfa, or --all (`beyondprop list` names them all)")
    systems = SYSTEMS if given.output.all else [find_system(word) for word in words]
    say("\n\n".join(dict.fromkeys(system.paper.bibtex for system in systems)))
