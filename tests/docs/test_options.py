"""The tables of options on the pages of rules with targets are those of the constructors."""

import inspect
import re
from pathlib import Path

import pytest

import beyondprop

RULES = Path(__file__).resolve().parents[2] / "docs" / "rules"
PAGES = {
    "target_propagation": ("DTP", "DTPDR", "DDTP"),
    "l_drl": ("LDRL",),
    "gauss_newton": ("GaussNewtonTargets",),
    "regularized_inversion": ("TPRI", "TPTT"),
}


def told(page, rule):
    """The default of each option in a page's table, as it stands there; rows that name another rule are that one's."""
    text = (RULES / f"{page}.md").read_text()
    rows = re.findall(r"^\| `(\w+)`(?: \(`(\w+)`\))?[^|]*\| ([^|]*) \|", text, re.MULTILINE)
    return {option: default.strip() for option, owner, default in rows if owner in ("", rule)}


def defaults(rule):
    """Those of a constructor; one that passes `**options` on has the next one's as well."""
    found = {}
    for kind in rule.__mro__:
        parameters = inspect.signature(kind.__init__).parameters
        found |= {name: p.default for name, p in parameters.items() if p.kind == p.KEYWORD_ONLY}
        if "options" not in parameters:
            return found
    return found


def written(option, default):
    if default is None:
        return "the optimizer's" if option == "feedback_rate" else "chosen"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


@pytest.mark.parametrize(("page", "name"), [(page, name) for page, names in PAGES.items() for name in names])
def test_the_table_has_all_options_with_their_defaults(page, name):
    expected = {option: written(option, default) for option, default in defaults(getattr(beyondprop, name)).items()}
    assert len(expected) >= 2
    assert expected.items() <= told(page, name).items()
