"""Run what PENDING.md lists, on a machine that is there for minutes at a time.

    python results/run_pending.py --runs /data/runs --minutes 9 --jobs 4

Every call goes on where the last one stopped: at the end of its time each reproduction is interrupted, which saves a
checkpoint, and the next call resumes it; Ctrl-C and SIGTERM end a call in the same way. So the runs folder must last
from call to call, and $BEYONDPROP_DATA must hold the data sets. Result files are written into results/ (or --results)
as reproductions finish; commit them.

Several reproductions run side by side: these networks are small for an accelerator. Exit status: 3 when another call
has something left to do, else 1 when one has failed, 0 when all are done.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

PENDING = Path(__file__).resolve().parent / "PENDING.md"
GRACE = 30.0  # seconds for a checkpoint to be written


def commands(text: str, word: str) -> list[list[str]]:
    """The reproductions that a text lists, one a line, of those lines that hold a word."""
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("beyondprop reproduce ") and word in line]


def run(queue: list[list[str]], *, jobs: int, seconds: float, logs: Path) -> tuple[list[str], list[str], list[str]]:
    """Run commands side by side until all are done or the time is up.

    Args:
        queue: Commands, most wanted first.
        jobs: How many at once.
        seconds: For all of them.
        logs: Folder for what they print.

    Returns:
        The commands that are done, that failed, and that have something left.
    """
    end = time.monotonic() + seconds
    waiting: list[list[str]] = list(queue)
    running: dict[subprocess.Popen[bytes], str] = {}
    done, failed = [], []
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < jobs:
                command = waiting.pop(0)
                with (logs / f"{len(queue) - len(waiting):03d}.log").open("w") as log:
                    # Of its own group, so that an interruption reaches it once, from here.
                    process = subprocess.Popen(
                        [sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                running[process] = shlex.join(command)
            for process in [process for process in running if process.poll() is not None]:
                (failed if process.returncode else done).append(running.pop(process))
            time.sleep(0.1)
    except KeyboardInterrupt:
        print("interrupted; waiting for checkpoints", file=sys.stderr)
    finally:
        _interrupt(list(running))
    return done, failed, [*running.values(), *map(shlex.join, waiting)]


def _interrupt(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let each save a checkpoint and leave, all at once."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # its last checkpoint stands
            process.wait()


def main(argv: list[str] | None = None) -> int:
    """Read the command line, run, and say what is done and what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of runs and logs that lasts from call to call")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--jobs", type=int, default=4, help="reproductions side by side")
    parser.add_argument("--only", default="--device cuda", help="lines of PENDING.md that hold this")
    parser.add_argument("--pending", type=Path, default=PENDING, help="the list")
    parser.add_argument("--results", type=Path, help="where result files go; default: results/")
    options = parser.parse_args(argv)
    queue = commands(options.pending.read_text(), options.only)
    if not queue:
        parser.error(f"{options.pending} has no `beyondprop reproduce` line with {options.only!r}")
    if options.results is not None:
        queue = [[*command, "--results", str(options.results.resolve())] for command in queue]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["BEYONDPROP_RUNS"] = str(options.runs.resolve())
    done, failed, left = run(queue, jobs=options.jobs, seconds=60 * options.minutes, logs=options.runs / "logs")
    for word, lines in (("done", done), ("failed", failed), ("left", left)):
        for line in lines:
            print(f"{word:6}  {line}")
    return 3 if left else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
