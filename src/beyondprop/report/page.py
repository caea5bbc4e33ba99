"""Pieces of pages that hold everything in themselves: no script, no style and no picture from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from beyondprop.report.figures import in_threads

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1.2rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ margin-top: 2.4rem; font-size: 1.25rem; }} h3, h4 {{ margin-bottom: 0.3rem; }}
p {{ max-width: 46rem; overflow-wrap: anywhere; }} .wide {{ overflow-x: auto; }}
img {{ max-width: 100%; min-width: min(44rem, 180vw); height: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }}
tbody th {{ text-align: left; font-weight: 600; }} td.text {{ text-align: left; white-space: normal; }}
pre {{ background: #f6f6f6; padding: 0.7rem; overflow-x: auto; }} summary {{ cursor: pointer; margin: 0.6rem 0; }}
</style>
<h1>{title}</h1>
"""


def head(title: str) -> str:
    """Everything above the text of a page."""
    return HEAD.format(title=html.escape(title))


def image(pictures: Mapping[str, bytes], name: str, what: str) -> str:
    """A picture within the page, which scrolls sideways where the window is narrow.

    Args:
        pictures: PNGs by name.
        name: Of the one that is shown.
        what: It shows, for those who do not see it.
    """
    data = base64.b64encode(pictures[name]).decode()
    return f'<div class="wide"><img alt="{html.escape(what)}" src="data:image/png;base64,{data}"></div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """A table that scrolls sideways where the window is narrow; the first cell of each row names it.

    Args:
        heads: Of the columns.
        rows: Cells, as many as heads.
        text: Columns of words, which stand on the left and are broken into lines.
    """
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        f"<tr><th>{html.escape(row[0])}</th>"
        + "".join(
            f"<td{' class=text' if column in text else ''}>{html.escape(cell)}</td>"
            for column, cell in enumerate(row[1:], start=1)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def settings_table(settings: Mapping[str, Mapping[str, object]]) -> str:
    """Every setting, and for each name its value; a dash where it has none of this name."""
    fields = list(dict.fromkeys(field for chosen in settings.values() for field in chosen))
    rows = [[field, *(str(chosen.get(field, "–")) for chosen in settings.values())] for field in fields]
    return table(["", *settings], rows)


def environment_line(document: Mapping[str, object]) -> str:
    """Where the figures of a document come from."""
    where = document["environment"]
    assert isinstance(where, Mapping)
    return html.escape(f"{surroundings_line(where)}, precision {document['precision']}")


def surroundings_line(where: Mapping[str, Any]) -> str:
    """Commit, version and machine, with the processor's model where it was noted."""
    machine = [where["device"], *([where["cpu"]] if where.get("cpu") else [])]
    return (
        f"commit {where['commit']}, torch {where['versions']['torch']}, {', '.join(machine)}, "
        f"{in_threads(where['threads'])}"
    )
