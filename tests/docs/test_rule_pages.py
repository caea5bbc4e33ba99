"""Every rule's page has its mathematics and its table of results, and says what it costs and where its limits are."""

import re
from pathlib import Path

import pytest

from beyondprop.catalogue import SYSTEMS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({system.page for system in SYSTEMS})


def page_of(name: str) -> str:
    return (ROOT / "docs" / "rules" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_page_holds_what_was_measured(name):
    text = page_of(name)
    begin, end = (text.find(f"<!-- page-{name}:{side} -->") for side in ("begin", "end"))
    assert 0 <= begin < end, "it lacks the markers of its table"
    assert re.findall(r"^## (.*)$", text[:begin], re.MULTILINE)[-1] == "Measured"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_the_mathematics_of_the_rule(name):
    formula = re.search(r"^\$\$\n.*\\.*\n\$\$$", page_of(name), re.MULTILINE | re.DOTALL)
    assert formula, f"docs/rules/{name}.md has no formula between lines of $$"


@pytest.mark.parametrize("word", ["cost", "limits"])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_a_heading_for_costs_and_for_limits(name, word):
    headings = [line.lower() for line in re.findall(r"^#+ (.*)$", page_of(name), re.MULTILINE)]
    assert any(word in heading for heading in headings), f"docs/rules/{name}.md has no heading with the word {word!r}"


def test_make_tables_writes_every_page():
    """All pages of the folder but one, which is of no rule of its own."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "RULE_PAGES = $(filter-out docs/rules/chip_in_the_loop.md,$(wildcard docs/rules/*.md))" in makefile
    pages = {path.stem for path in (ROOT / "docs" / "rules").glob("*.md")}
    assert pages - set(PAGES) == {"chip_in_the_loop"}
