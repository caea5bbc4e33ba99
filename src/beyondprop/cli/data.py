"""`beyondprop data list | where NAME | verify NAME`."""

from __future__ import annotations

from beyondprop import data
from beyondprop.checks import suggestion
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import aligned, say
from beyondprop.errors import UserError

HELP = """Says where the named data sets lie and whether their files are intact. They are read from
$BEYONDPROP_DATA (default: the user's cache folder) in their publishers' layouts; training fetches what is absent.

Actions:
  list         name every data set and its folder
  where NAME   say the folder of one data set
  verify NAME  compare each of its files with the published checksum

Examples:
  beyondprop data list
  beyondprop data where mnist
  beyondprop data verify cifar-10
"""

ACTIONS = {"list": 0, "where": 1, "verify": 1}  # how many names each takes


def run(argv: list[str]) -> None:
    """Run the command."""
    words, _ = parse(argv, "beyondprop data list|where|verify [NAME]", HELP, words=2)
    if not words or words[0] not in ACTIONS:
        hint = suggestion(words[0], ACTIONS) if words else ""
        given = f"not {words[0]!r}{hint}" if words else "such as `beyondprop data where mnist`"
        raise UserError(f"data takes list, where or verify, {given} (see `beyondprop data --help`)")
    action, *names = words
    if len(names) != ACTIONS[action]:
        wanted = "one name" if ACTIONS[action] else "no name"
        raise UserError(f"data {action} takes {wanted}, not {len(names)} (see `beyondprop data --help`)")
    if action == "list":
        say(aligned([(name, str(data.where(name))) for name in data.names()], indent=""))
    elif action == "where":
        say(str(data.where(names[0])))
    else:
        say(aligned(data.verify(names[0]), indent=""))
