"""Pictures of the documentation that tell in their description what figures they were made from."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"


def digest(content: Any) -> str:
    """Of what a picture shows."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def svg(content: Any, draw: Callable[[], Figure]) -> bytes:
    """Draw a picture that says in its description what it was made from."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "beyondprop", "font.size": 9.5, "axes.titlesize": 10.5}):
        metadata = {"Date": None, "Description": f"figures: {digest(content)}"}
        FigureCanvasSVG(draw()).print_svg(buffer, metadata=metadata)
    return buffer.getvalue()


def stale_pictures(made: Mapping[str, tuple[Any, Callable[[], Figure]]], folder: Path = PICTURES) -> Iterator[str]:
    """Name the pictures that are missing or show other figures than the result files hold."""
    for name, (content, _) in made.items():
        path = folder / name
        if not path.exists() or digest(content) not in path.read_text(encoding="utf-8"):
            yield name
