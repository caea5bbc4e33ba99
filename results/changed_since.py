"""Lists the result files whose rule has changed since they were made, with the command that makes each anew.

    python results/changed_since.py              all of them, the quickest first
    python results/changed_since.py --lines 20   those of whose rule that many lines or more were added or removed

What is counted is the module of the system's class, by git. Most changes are of words, or of what other networks need;
which of them may move a figure is to be read (`git diff COMMIT -- FILE`), and reproducing tells. Seconds are those of
the run that is there.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beyondprop.catalogue import find_recipe, find_system
from beyondprop.reproduce import PRECISION

RESULTS = Path(__file__).resolve().parent


@functools.cache
def changed_lines(commit: str, module: Path) -> int | None:
    """Lines of a module that were added or removed since a commit; None where git does not know the commit."""
    command = ["git", "diff", "--numstat", commit, "HEAD", "--", str(module)]
    told = subprocess.run(command, cwd=RESULTS, capture_output=True, text=True, check=False)
    if told.returncode:
        return None
    return sum(int(number) for number in told.stdout.split()[:2])


def module_of(system: str) -> Path:
    """The file of a system's class."""
    return Path(inspect.getfile(find_system(system).load()))


def command_of(document: dict[str, Any], name: str) -> str:
    """The command that makes a result file anew.

    Args:
        document: What it holds.
        name: Of the file below the folder of results, without its ending: the recipe, and its suffix.
    """
    recipe = find_recipe(document["recipe"])
    words = ["beyondprop", "reproduce", recipe.id, "--seeds", str(len(document["seeds"]))]
    own = json.loads(json.dumps(asdict(recipe.settings), default=str))
    for setting, value in document["settings"].items():
        if value != own[setting]:
            words += _flag(setting, value)
    suffix = name.removeprefix(recipe.id).removeprefix("-")
    if suffix and suffix != document["settings"].get("embedding"):
        words += ["--suffix", suffix]
    for told in document["departures"]:
        if told.startswith(PRECISION):
            words += ["--precision", told.removeprefix(PRECISION)]
    return shlex.join([*words, "--replace"])


def _flag(setting: str, value: Any) -> list[str]:
    flag = setting.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *("auto" if each is None else str(each) for each in values)]


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1)
    given = parser.parse_args()
    rows = []
    for path in sorted(RESULTS.glob("*/*.json")):
        document = json.loads(path.read_bytes())
        module = module_of(path.parent.name)
        commits = {document["environment"]["commit"], *document["environment"].get("commits", ())}
        counts = [changed_lines(commit, module) for commit in commits]
        lines = None if None in counts else max(filter(None, counts), default=0)
        if lines is None or lines >= given.lines:
            seconds = document["cost"]["train_seconds"] * len(document["seeds"])
            name = path.relative_to(RESULTS).with_suffix("").as_posix()
            rows.append((seconds, "commit unknown" if lines is None else f"{lines} lines", command_of(document, name)))
    for seconds, lines, command in sorted(rows):
        print(f"{seconds:8.0f} s  {lines:15} {command}")


if __name__ == "__main__":
    main()
