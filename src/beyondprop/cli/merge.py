"""`beyondprop merge RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beyondprop import parallel
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import say_json
from beyondprop.cli.train import report, summarise
from beyondprop.errors import UserError

HELP = """Makes one finished run of what several processes have trained, each started by hand with --rank and --ranks,
into RUN/rank-0, RUN/rank-1 and so on: the whole network, measured on the test split. Copy the folders of other machines
into RUN first. Processes of torchrun do this by themselves.

Examples:
  beyondprop merge runs/mine
"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed."""

    json: bool = False
    """Print the outcome as one JSON object on the last line of stdout."""
    quiet: bool = False
    """Show no summary."""


def run(argv: list[str]) -> None:
    """Run the command."""
    words, given = parse(argv, "beyondprop merge RUN", HELP, words=1, output=Output())
    if not words:
        raise UserError("merge needs a run folder: beyondprop merge RUN (see `beyondprop merge --help`)")
    outcome = parallel.merge(Path(words[0]))
    if given.output.json:
        say_json(report(outcome))
    elif not given.output.quiet:
        summarise(outcome)
