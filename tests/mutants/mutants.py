"""Plants the defects that ship in this field (signs, scales, layers that never learn) and checks that a test sees each.

    python tests/mutants/mutants.py                     all of them
    python tests/mutants/mutants.py schedule            those whose name holds the word
    python tests/mutants/mutants.py --jobs 2            two at a time, each on one thread
    python tests/mutants/mutants.py --new               those that no test is known to notice
    python tests/mutants/mutants.py --control           their tests on the source as it is, which they must pass

Every mutant is a copy of the source with one line changed; the tests named beside it must fail on it. The source is
never changed. Exit status 1 if a mutant survives, or its tests hang or cannot run, or a line to change is no longer there.

Which test noticed it is kept in `noticed.json` after each mutant, to be committed, as long as the mutant is the same. The
next time that test is run first, alone, and all of the mutant's tests only if it passes.

The libraries that tests import take longer to load than most tests take to run. So they are loaded once, and every
mutant's tests run in a fork of the process that has loaded them and nothing of beyondprop.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import planted
from mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
NOTICED = Path(__file__).with_name("noticed.json")
FAMILIES = tuple(importlib.import_module(f"planted.{module.name}") for module in pkgutil.iter_modules(planted.__path__))
MUTANTS = tuple(mutant for family in FAMILIES for mutant in family.MUTANTS)
LOADED = (
    "matplotlib.figure",
    "numpy",
    "optuna",
    "pytest",
    "rich",
    "safetensors.torch",
    "scipy.linalg",
    "sklearn.linear_model",
    "torch",
    "torch._dynamo",  # with the first optimizer
    "torch.distributed",
    "torch.func",
    "torch.testing",
    "tyro",
)
PATIENCE = 900  # seconds: what takes longer hangs
CANNOT_RUN = 3  # pytest's own status for an internal error
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


Verdict = Literal["passed", "failed", "crashed", "killed", "broken"]


class Outcome(NamedTuple):
    """What became of a mutant's tests, and which of them ran last.

    Killed are those that hang, and those that something else ended; broken are those that could not run.
    """

    mutant: Mutant
    verdict: Verdict
    test: str

    @property
    def caught(self) -> bool:
        """Whether a test failed, or a kernel took the tests with it; not where none had begun."""
        return self.verdict in ("failed", "crashed") and bool(self.test)


class Watch:
    """Writes to a file which test runs, before it can end the process."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Called by pytest."""
        self.file.write_text(nodeid, encoding="utf-8")


def plant(mutant: Mutant, folder: Path) -> None:
    """Write a source tree with the defect in it."""
    package = folder / "beyondprop"
    shutil.copytree(ROOT / "src" / "beyondprop", package, ignore=shutil.ignore_patterns("__pycache__"))
    target = package / mutant.file
    source = target.read_text(encoding="utf-8")
    if mutant.old not in source:
        raise SystemExit(f"{mutant.name}: {mutant.old!r} is not in {mutant.file} any more; mend the mutant")
    target.write_text(source.replace(mutant.old, mutant.new, 1), encoding="utf-8")
    if "native" in target.parts:
        subprocess.run([sys.executable, str(target.with_name("build.py"))], capture_output=True, check=True)


def run_tests(tests: tuple[str, ...], folder: Path) -> None:
    """In a process of its own: run tests on the tree in a folder; the exit status is pytest's."""
    status = CANNOT_RUN
    try:
        with (folder / "told").open("w", encoding="utf-8") as told:
            for stream in (1, 2):
                os.dup2(told.fileno(), stream)
        sys.dont_write_bytecode = True
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = str(folder)  # of the processes that tests start
        import pytest

        plain = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "-o", f"pythonpath={folder}")
        status = int(pytest.main([*plain, *tests], plugins=[Watch(folder / "test")]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def outcomes(mutants: list[Mutant], jobs: int, noticed: Mapping[str, str]) -> Iterator[Outcome]:
    """What becomes of each mutant, in the order in which they finish; `noticed`: by name, the test to be run first."""
    fork = multiprocessing.get_context("fork")
    waiting = [(mutant, (noticed[mutant.name],) if mutant.name in noticed else mutant.tests) for mutant in mutants]
    waiting.reverse()
    running = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    (mutant, tests), folder = waiting.pop(), Path(tempfile.mkdtemp(dir=scratch))
                    plant(mutant, folder)
                    process = fork.Process(target=run_tests, args=(tests, folder))
                    process.start()
                    running[process.sentinel] = (process, mutant, tests, folder, time.monotonic())
                multiprocessing.connection.wait(list(running), timeout=1)
                for sentinel, (process, mutant, tests, folder, began) in list(running.items()):
                    if process.is_alive() and time.monotonic() - began < PATIENCE:
                        continue
                    process.kill()  # nothing, where it has ended
                    process.join()
                    del running[sentinel]
                    told, test = (_text(folder / name) for name in ("told", "test"))
                    outcome = Outcome(mutant, judge(process.exitcode, told), test)
                    shutil.rmtree(folder)
                    if not outcome.caught and tests != mutant.tests:
                        waiting.append((mutant, mutant.tests))
                        continue
                    if outcome.verdict == "broken":
                        print(f"{mutant.name}: the tests could not run\n{told[-4000:]}", file=sys.stderr)
                    yield outcome
        finally:
            for process, *_ in running.values():
                process.kill()
                process.join()


def judge(status: int, told: str) -> Verdict:
    """What the exit status of a mutant's tests says, and what they wrote."""
    if status < 0:
        return "crashed" if -status in CRASHES else "killed"
    if status > 1 and not re.search("^FAILED ", told, re.MULTILINE):  # a thread that a test leaves may come in the way
        return "broken"
    return "failed" if status else "passed"


def digest(mutant: Mutant) -> str:
    """Which change it is, whatever it is called."""
    return hashlib.sha256("\0".join(mutant[1:4]).encode()).hexdigest()[:8]


def known() -> dict[str, str]:
    """Which test noticed each mutant, by name; of those that are as they were."""
    kept = json.loads(NOTICED.read_bytes()) if NOTICED.exists() else {}
    return {m.name: kept[m.name][1] for m in MUTANTS if m.name in kept and kept[m.name][0] == digest(m)}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def keep(outcome: Outcome) -> None:
    """Write down which test noticed a mutant, or that none has: a line for each, in the order of the mutants."""
    noticed = known()  # another run may have added to them
    if outcome.caught:
        noticed[outcome.mutant.name] = outcome.test
    elif outcome.verdict == "passed":  # tests that could not run say nothing
        noticed.pop(outcome.mutant.name, None)
    lines = [json.dumps({m.name: [digest(m), noticed[m.name]]})[1:-1] for m in MUTANTS if m.name in noticed]
    written = NOTICED.with_suffix(f".{os.getpid()}")
    written.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    written.replace(NOTICED)


def main() -> int:
    """Try the mutants that are asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="a part of their names; by default all")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--new", action="store_true", help="those that no test is known to notice")
    parser.add_argument("--control", action="store_true", help="plant nothing: the same tests must pass")
    arguments = parser.parse_args()
    noticed = known()
    chosen = [mutant for mutant in MUTANTS if arguments.word in mutant.name]
    if arguments.new:
        chosen = [mutant for mutant in chosen if mutant.name not in noticed]
    if arguments.control:
        chosen = [
            Mutant(f"nothing: {' '.join(tests)}", "__init__.py", "", "", tests) for tests in {m.tests for m in chosen}
        ]
    os.environ["OMP_NUM_THREADS"], os.environ["PYTHONDONTWRITEBYTECODE"] = "1", "1"
    os.environ.pop("PYTHONPATH", None)
    for name in LOADED:
        importlib.import_module(name)
    wrong, began = 0, time.monotonic()
    for outcome in outcomes(chosen, arguments.jobs, noticed):
        name, verdict = outcome.mutant.name, outcome.verdict
        right = verdict == "passed" if arguments.control else outcome.caught
        caught = "caught" if right else "SURVIVED" if verdict == "passed" else verdict.upper()
        print(f"{verdict if arguments.control else caught:8}  {name}", flush=True)
        wrong += not right
        if not arguments.control:
            keep(outcome)
    what = "sets of tests passed" if arguments.control else "planted defects caught"
    print(f"{len(chosen) - wrong} of {len(chosen)} {what} in {time.monotonic() - began:.0f} s")
    return 1 if wrong or not (chosen or arguments.new) else 0


if __name__ == "__main__":
    sys.exit(main())
