"""`beyondprop cite`: the papers' entries, each once."""

import re

import pytest

from beyondprop.catalogue import SYSTEMS, find_system
from beyondprop.cli import main


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{([^,\s]+),$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["bp", "dfa", "heb"])
def test_prints_one_entry_as_it_stands(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["cite", name]) == 0
    assert capsys.readouterr().out == find_system(name).paper.bibtex + "\n"


def test_a_paper_of_several_rules_is_printed_once_and_in_order(capsys: pytest.CaptureFixture[str]):
    assert main(["cite", "noprop-ct", "drtp", "noprop-dt", "sdfa", "noprop-ct"]) == 0
    assert keys(capsys.readouterr().out) == ["li2025noprop", "frenkel2021learning"]


def test_all_are_entries_of_their_own(capsys: pytest.CaptureFixture[str]):
    """BibTeX stops at a key that stands twice."""
    assert main(["cite", "--all"]) == 0
    out = capsys.readouterr().out
    found = keys(out)
    assert len(found) == len(set(found)) == len({system.paper.title for system in SYSTEMS})
    assert out.count("{") == out.count("}")
    assert len(re.split(r"\n\n(?=@)", out)) == len(found)  # an empty line between two entries


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["dfa", "norpop-dt"], "there is no system 'norpop-dt'; did you mean 'noprop-dt'?"),
        ([], "needs rules"),
        (["dfa", "--all"], "leave 'dfa' out"),
        (["--every"], "there is no flag --every"),
    ],
)
def test_what_cannot_be_cited_is_told_in_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["cite", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1
