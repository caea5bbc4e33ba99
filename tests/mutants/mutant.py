"""What a planted defect is."""

from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]
NOPROP_TESTS = ("tests/rules/local", "tests/networks")


class Mutant(NamedTuple):
    """One planted defect: in `file`, the first `old` becomes `new`; `tests` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = NOPROP_TESTS


def tests_named(pattern: str) -> tuple[str, ...]:
    """The test files of that name, such as `test_chip_*`, wherever they are."""
    return tuple(path.relative_to(TESTS.parent).as_posix() for path in sorted(TESTS.rglob(f"{pattern}.py")))
