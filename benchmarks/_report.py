"""The command line of scripts that make tables and pictures of result files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from _pictures import PICTURES, svg
from beyondprop.training.atomic import write_file
from signals_report import PAGE, write


def write_asked(
    about: str | None,
    arguments: list[str] | None,
    tables: Callable[[], dict[str, str]],
    pictures: Callable[[], Mapping[str, tuple[Any, Callable[[], Figure]]]],
    page: Path = PAGE,
) -> None:
    """Write tables, pictures, or both where nothing is asked for.

    Args:
        about: What the script says of itself.
        arguments: Its command line.
        tables: Makes them, by the names that their markers carry.
        pictures: Gives for each what is drawn in it, and how.
        page: Where the tables stand.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["tables", "pictures"], default=["tables", "pictures"])
    what = parser.parse_args(arguments).what
    if "tables" in what:
        write(tables(), page)
    if "pictures" in what:
        for name, (content, draw) in pictures().items():
            write_file(PICTURES / name, svg(content, draw))
