"""How Sphinx builds the documentation: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from beyondprop import __version__

project = "beyondprop"
author = "The beyondprop authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files outside this folder; tests/docs follows every link

html_theme = "furo"
html_title = f"beyondprop {version}"
html_copy_source = False

default_role = "literal"  # docstrings write names in single backticks, as Markdown does
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True


def keep_formulas(_app, _what, _name, _object, _options, lines):
    """Docstrings set formulas and code off by indenting them: show these as they stand."""
    shown, previous = [], ""
    for line in lines:
        if previous == "" and line.startswith("    ") and not (shown and shown[-1].startswith("    ")):
            base = next((text for text in reversed(shown) if text), "")
            if not base.startswith(" ") and not base.endswith((":", "::")) or base.endswith((":",)) and not base.startswith(" "):
                shown += [".. code-block:: none", ""]
        shown.append(line)
        previous = line
    lines[:] = shown


def setup(app):
    """Run before napoleon, which would take the formulas for quotations."""
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)
