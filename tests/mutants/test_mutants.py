"""The list of planted defects is up to date; whether tests notice them is tried by the script itself."""

import itertools
from pathlib import Path

import pytest
from mutant import Mutant

from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_line_to_be_changed_is_there_and_so_are_the_tests(mutant: Mutant) -> None:
    assert mutant.old in (ROOT / "src" / "beyondprop" / mutant.file).read_text(encoding="utf-8")
    assert mutant.new != mutant.old
    files = list(itertools.takewhile(lambda word: word != "-k", mutant.tests))  # behind it stands which of their tests
    assert files
    assert all(Path(ROOT / test.partition("::")[0]).exists() for test in files)


def test_names_are_not_given_twice() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))
