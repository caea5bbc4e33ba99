"""What a planted defect is."""

from typing import NamedTuple

NOPROP_TESTS = ("tests/rules/local", "tests/networks")


class Mutant(NamedTuple):
    """One planted defect: in `file`, the first `old` becomes `new`; `tests` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = NOPROP_TESTS
