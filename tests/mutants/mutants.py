"""Plants the defects that ship in this field (signs, scales, layers that never learn) and checks that a test sees each.

    python tests/mutants/mutants.py                     all of them
    python tests/mutants/mutants.py schedule            those whose name holds the word
    python tests/mutants/mutants.py --jobs 2            two at a time, each on one thread
    python tests/mutants/mutants.py --known FILE        all that FILE does not call caught; what comes out is added to it
    python tests/mutants/mutants.py --control           their tests on the source as it is, which they must pass

Every mutant is a copy of the source with one line changed; the tests named beside it must fail on it. The checkout is
never changed. Exit status 1 if a mutant survives, or its tests hang or cannot run, or a line to change is no longer there.

The libraries that tests import take longer to load than most tests take to run. So they are loaded once, and every
mutant's tests run in a fork of the process that has loaded them and nothing of beyondprop.
"""

import argparse
import importlib
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
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import planted
from mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = tuple(importlib.import_module(f"planted.{module.name}") for module in pkgutil.iter_modules(planted.__path__))
MUTANTS = tuple(mutant for family in FAMILIES for mutant in family.MUTANTS)
LOADED = (
    "numpy",
    "scipy.linalg",
    "sklearn.linear_model",
    "torch",
    "torch.func",
    "matplotlib.figure",
    "pytest",
    "tyro",
    "rich",
)
PATIENCE = 900  # seconds: what takes longer hangs
CANNOT_RUN = 3  # pytest's own status for an internal error


Verdict = Literal["passed", "failed", "crashed", "killed", "broken"]


class Outcome(NamedTuple):
    """What became of a mutant's tests.

    Killed are those that hang, and those for which memory runs out; broken are those that could not run.
    """

    mutant: Mutant
    verdict: Verdict


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


def run_tests(mutant: Mutant, folder: Path) -> None:
    """In a process of its own: run the mutant's tests on the tree in a folder; the exit status is pytest's."""
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
        status = int(pytest.main([*plain, *mutant.tests]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def outcomes(mutants: list[Mutant], jobs: int) -> Iterator[Outcome]:
    """What becomes of each mutant, in the order in which they finish."""
    fork = multiprocessing.get_context("fork")
    waiting, running = list(reversed(mutants)), {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    mutant, folder = waiting.pop(), Path(tempfile.mkdtemp(dir=scratch))
                    plant(mutant, folder)
                    process = fork.Process(target=run_tests, args=(mutant, folder))
                    process.start()
                    running[process.sentinel] = (process, mutant, folder, time.monotonic())
                multiprocessing.connection.wait(list(running), timeout=1)
                for sentinel, (process, mutant, folder, began) in list(running.items()):
                    if process.is_alive() and time.monotonic() - began < PATIENCE:
                        continue
                    process.kill()  # nothing, where it has ended
                    process.join()
                    del running[sentinel]
                    told = (folder / "told").read_text(encoding="utf-8", errors="replace")
                    verdict = judge(process.exitcode, told)
                    if verdict == "broken":
                        print(f"{mutant.name}: the tests could not run\n{told[-4000:]}", file=sys.stderr)
                    yield Outcome(mutant, verdict)
                    shutil.rmtree(folder)
        finally:
            for process, *_ in running.values():
                process.kill()
                process.join()


def judge(status: int, told: str) -> Verdict:
    """What the exit status of a mutant's tests says, and what they wrote."""
    if status < 0:
        return "killed" if -status == signal.SIGKILL else "crashed"
    if status > 1 and not re.search("^FAILED ", told, re.MULTILINE):  # a thread that a test leaves may come in the way
        return "broken"
    return "failed" if status else "passed"


def main() -> int:
    """Try the mutants that are asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="a part of their names; by default all")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--known", type=Path, help="a file of names that were caught, which are left out, and added to")
    parser.add_argument("--control", action="store_true", help="plant nothing: the same tests must pass")
    arguments = parser.parse_args()
    known = set(arguments.known.read_text().splitlines()) if arguments.known and arguments.known.exists() else set()
    chosen = [mutant for mutant in MUTANTS if arguments.word in mutant.name and mutant.name not in known]
    if arguments.control:
        chosen = [
            Mutant(f"nothing: {' '.join(tests)}", "__init__.py", "", "", tests) for tests in {m.tests for m in chosen}
        ]
    os.environ["OMP_NUM_THREADS"], os.environ["PYTHONDONTWRITEBYTECODE"] = "1", "1"
    os.environ.pop("PYTHONPATH", None)
    for name in LOADED:
        importlib.import_module(name)
    # Crashed: a kernel that takes the tests with it.
    wanted = {"passed"} if arguments.control else {"failed", "crashed"}
    wrong, began = 0, time.monotonic()
    for mutant, verdict in outcomes(chosen, arguments.jobs):
        right = verdict in wanted
        caught = "caught" if right else "SURVIVED" if verdict == "passed" else verdict.upper()
        print(f"{verdict if arguments.control else caught:8}  {mutant.name}", flush=True)
        wrong += not right
        if right and arguments.known and not arguments.control:
            with arguments.known.open("a") as file:
                file.write(mutant.name + "\n")
    what = "sets of tests passed" if arguments.control else "planted defects caught"
    print(f"{len(chosen) - wrong} of {len(chosen)} {what} in {time.monotonic() - began:.0f} s")
    return 1 if wrong or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
