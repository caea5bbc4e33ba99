"""The list of planted defects is up to date; whether tests notice them is tried by the script itself."""

import itertools
import signal
from pathlib import Path

import pytest
from mutant import Mutant

import mutants
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


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("assert beyondprop.errors.UserError is None", "failed"),
        ("pass", "passed"),
        ("os.abort()", "crashed"),
        ("time.sleep(60)", "killed"),
    ],
)
def test_a_mutant_is_judged_by_what_becomes_of_its_tests(body: str, verdict: str, tmp_path: Path, monkeypatch):
    script = tmp_path / "test_one.py"
    script.write_text(f"import os\nimport time\nimport beyondprop.errors\n\n\ndef test_it():\n    {body}\n")
    monkeypatch.setattr(mutants, "PATIENCE", 4 if verdict == "killed" else 60)
    (found,) = mutants.outcomes([Mutant("nothing", "errors.py", "", "", (str(script),))], jobs=2, noticed={})
    assert found.verdict == verdict
    assert found.test.endswith("test_one.py::test_it")


def test_tests_that_cannot_run_are_no_catch_and_end_nothing(tmp_path: Path, capsys):
    script = tmp_path / "test_one.py"
    script.write_text("def test_it():\n    assert False\n")
    missing = Mutant("nothing", "errors.py", "", "", (str(tmp_path / "none.py"),))
    found = mutants.outcomes([missing, missing._replace(tests=(str(script),))], jobs=1, noticed={})
    assert [each.verdict for each in found] == ["broken", "failed"]
    assert "nothing: the tests could not run" in capsys.readouterr().err


def test_the_test_that_noticed_before_is_run_first_and_all_of_them_if_it_passes(tmp_path: Path):
    script = tmp_path / "test_one.py"
    script.write_text(
        "def test_early():\n    assert False\n\n\ndef test_late():\n    assert False\n\n\ndef test_good():\n    pass\n"
    )
    mutant = Mutant("nothing", "errors.py", "", "", (str(script),))
    for known, test in (("late", "late"), ("good", "early"), ("gone", "early")):
        (found,) = mutants.outcomes([mutant], jobs=1, noticed={"nothing": f"{script}::test_{known}"})
        assert found.verdict == "failed"
        assert found.test.endswith(f"::test_{test}")


def test_what_is_kept_is_of_mutants_that_are_as_they_were(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mutants, "NOTICED", tmp_path / "noticed.json")
    first, second, third = MUTANTS[:3]
    for mutant, test in ((second, "b"), (first._replace(name="no longer"), "c"), (first, "a"), (third, "d")):
        mutants.keep(mutants.Outcome(mutant, "failed", test))
    assert list(mutants.known().items()) == [(first.name, "a"), (second.name, "b"), (third.name, "d")]
    for verdict in ("broken", "killed", "passed"):
        assert second.name in mutants.known()
        mutants.keep(mutants.Outcome(second, verdict, ""))
    assert list(mutants.known()) == [first.name, third.name]
    monkeypatch.setattr(mutants, "MUTANTS", (first, third._replace(new="something else")))
    assert list(mutants.known()) == [first.name]


def test_every_mutant_was_noticed_by_a_test_that_there_is() -> None:
    """After a change of the list: `python tests/mutants/mutants.py --new`."""
    noticed = mutants.known()
    assert list(noticed) == [mutant.name for mutant in MUTANTS]
    for test in noticed.values():
        file, name = test.partition("[")[0].split("::", 1)
        assert f"def {name.rpartition('::')[2]}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_what_ends_before_a_test_has_begun_is_no_catch(tmp_path: Path):
    script = tmp_path / "test_one.py"
    script.write_text("import os\n\nos.abort()\n")
    (found,) = mutants.outcomes([Mutant("nothing", "errors.py", "", "", (str(script),))], jobs=1, noticed={})
    assert not found.caught
    assert mutants.judge(-signal.SIGTERM, "") == "killed"


def test_a_run_that_breaks_behind_a_failed_test_has_caught(tmp_path: Path):
    """A thread that the test has left may do that."""
    assert mutants.judge(mutants.CANNOT_RUN, "FAILED tests/test_one.py::test_it - assert False") == "failed"
    assert mutants.judge(mutants.CANNOT_RUN, "ERROR tests/test_one.py") == "broken"
