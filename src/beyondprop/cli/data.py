"""`beyondprop data list | where NAME | verify NAME`."""

from __future__ import annotations

from dataclasses import dataclass

from beyondprop import data
from beyondprop.checks import suggestion
from beyondprop.cli.arguments import parse
from beyondprop.cli.output import aligned, say, say_json
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


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed."""

    json: bool = False
    """Print one JSON object on the last line of stdout."""


ACTIONS = {"list": 0, "where": 1, "verify": 1}  # how many names each takes


def run(argv: list[str]) -> None:
    """Run the command."""
    words, given = parse(argv, "beyondprop data list|where|verify [NAME]", HELP, words=2, output=Output())
    if not words or words[0] not in ACTIONS:
        hint = suggestion(words[0], ACTIONS) if words else ""
        instead = f"not {words[0]!r}{hint}" if words else "such as `beyondprop data where mnist`"
        raise UserError(f"data takes list, where or verify, {instead} (see `beyondprop data --help`)")
    action, *names = words
    if len(names) != ACTIONS[action]:
        wanted = "one name" if ACTIONS[action] else "no name"
        raise UserError(f"data {action} takes {wanted}, not {len(names)} (see `beyondprop data --help`)")
    if action == "verify":
        files = data.verify(names[0])
        say_json({"name": names[0], "files": dict(files)}) if given.output.json else say(aligned(files, indent=""))
        return
    folders = {name: str(data.where(name)) for name in names or data.names()}
    if given.output.json:
        say_json({"datasets": folders})
    else:
        say(folders[names[0]] if names else aligned(list(folders.items()), indent=""))
