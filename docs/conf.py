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
    """Show what a docstring sets off by indenting it, formulas and code, as it stands."""
    shown = []
    for line in lines:
        before = next((text for text in reversed(shown) if text), " ")
        if line.startswith("    ") and shown and shown[-1] == "" and not before.startswith(" "):
            shown += [".. code-block:: none", ""]
        shown.append(line)
    lines[:] = shown


def escape_bars(_app, _what, _name, _object, _options, lines):
    """Take |x| as it stands: between two bars reStructuredText looks for a substitution."""
    shown, code = [], None  # how far the code block that a line may belong to is indented
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if code is not None and line.strip() and depth <= code:
            code = None
        if code is None and line.lstrip().startswith(".. code-block::"):
            code = depth
        literal = code is not None or line.lstrip().startswith(">>>")
        shown.append(line if literal else line.replace("|", r"\|"))
    lines[:] = shown


def setup(app):
    """Change docstrings before napoleon, which would take formulas for quotations, and after it."""
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
