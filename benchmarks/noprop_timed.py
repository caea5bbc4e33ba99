r"""Speed of NoProp-CT, a training step and a prediction: ours beside two public peers, on the CPU.

    python benchmarks/noprop_timed.py --rounds 3 --threads 2 --yhgon /path/to/NoProp \
        --nullaprop /path/to/nullaprop --jax-python /path/to/a/python/with/jax

The block is the paper's (arXiv 2503.24322, Figure 6, right: 2,441,162 parameters for images of 3x32x32, counted on
every side, or nothing is measured), embedding one-hot, dropout 0.2, one batch of 128 random images of the shapes of
CIFAR-10 and MNIST. All sides use learning rate 1e-3 and weight decay 1e-3. The peers:

- github.com/yhgon/NoProp at commit 9283324 (PyTorch), its script for MNIST: `peers/yhgon.py`.
- github.com/dimarkov/nullaprop at commit 437ca12 (JAX), with jax 0.10.2, equinox 0.13.8 and optax 0.2.8:
  `peers/nullaprop.py`. It runs with XLA's YNNPACK fusions and without; the faster counts, task by task.

      git clone https://github.com/yhgon/NoProp && git -C NoProp checkout 928332455c01d2be0c1a3fc88b48701de6e508ef
      git clone https://github.com/dimarkov/nullaprop
      git -C nullaprop checkout 437ca122f87dfeb73b39d0f2744b474de89041f1
      python -m venv jax && jax/bin/pip install jax==0.10.2 equinox==0.13.8 optax==0.2.8

What stands in for parts of them, and why, is told in these two files; nothing in theirs is changed. Both have float32
alone. Ours (`peers/ours.py`) is `NoPropCT` with its defaults, channels_last and fused Adam, in float32 and under bf16
autocast.

Training. A step of either peer runs the whole block twice: at z_t, and at z_1 for the cross-entropy, where the paper,
and ours, has one pass and a linear layer upon z_1. So ours stands here twice as well: a step as it is, and, for equal
work, an optimizer step upon two whole passes of encoder and block over the batch.

Predictions. Ours takes 20 steps by its default method and reads the images once. It stands beside the peers' Euler
method in 20 steps (as many evaluations of the block), and beside their Heun method in 40, which is their default and
evaluates the block 80 times. By yhgon's own log for MNIST (`logs/log_mnist.md`) its accuracy is complete from 20 steps
on with Euler and from 40 on with Heun, with each of three ResNets; with fewer, one or other of them falls short, to
chance or below in places. yhgon reads the images anew at every evaluation; nullaprop's are read once in the loop and
once after it, since XLA takes them out. The paper takes 1000 steps: these stand beside each other on CIFAR-10's shape,
Euler's method on all sides, in one turn after the last round; a peer that would take over a minute is left out (null).
Accuracy is not measured here: `results/noprop-ct/` has it for ours, by the number of steps. There 2 steps are as
accurate as 1000, and so 2 steps of ours stand beside the peers' 20 and 40 as well: as many as either needs.

Each side is a process of its own. They take turns, round by round, one at work while the others wait; a turn is a few
calls of each task, the first not counted, and gives their median. The figures are made from the median of the rounds.
Without checkouts of the peers their values are null.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import beyondprop
from _timing import Row, compare, environment, spread, write_results

OUT = Path(__file__).resolve().parent / "results" / "noprop_timed.json"
DRIVERS = Path(__file__).resolve().parent / "peers"
PRECISIONS = ("float32", "bf16")
PEERS = {"yhgon": "yhgon/NoProp@9283324", "nullaprop": "dimarkov/nullaprop@437ca12"}
TRAIN, TWICE = "train", "train twice"
CALLS, TURN_SECONDS, LONGEST = 5, 1.5, 60.0


@dataclass(frozen=True)
class Size:
    """Of the task; the defaults are the paper's block, which the peers have."""

    batch: int = 128
    images: tuple[tuple[str, tuple[int, int, int]], ...] = (("CIFAR-10", (3, 32, 32)), ("MNIST", (1, 28, 28)))
    widths: tuple[int, int, int] = (32, 64, 128)
    hidden: int = 256
    few_steps: int = 2
    steps: int = 20
    heun_steps: int = 40
    paper_steps: int = 1000

    @property
    def few(self) -> str:
        """Our prediction in no more steps than it needs."""
        return f"multistep {self.few_steps}"

    @property
    def ours(self) -> str:
        """Our prediction."""
        return f"multistep {self.steps}"

    @property
    def euler(self) -> str:
        """The peers' prediction in as many steps."""
        return f"euler {self.steps}"

    @property
    def heun(self) -> str:
        """The peers' default."""
        return f"heun {self.heun_steps}"

    @property
    def paper(self) -> str:
        """The paper's prediction."""
        return f"euler {self.paper_steps}"


Seconds = dict[str, dict[str, list[float]]]  # by side and task, one for each round


class Side:
    """A process that times what it is told to, by `peers/_common.py`.

    Args:
        name: For messages.
        command: Starts it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        source = str(Path(beyondprop.__file__).resolve().parents[1])  # the library that runs here, for our own side
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its standard input, which ends it

    def answer(self) -> Any:
        """Read a line."""
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}: see above")
        return json.loads(line)

    def turn(self, task: str, calls: int = CALLS, limit: float = TURN_SECONDS) -> float:
        """Let it take a turn at a task.

        Args:
            task: Its name.
            calls: How many count at most.
            limit: Seconds after which no further one is begun.

        Returns:
            The median of its calls' seconds.
        """
        wanted = {"task": task, "calls": calls, "limit": limit}
        with contextlib.suppress(BrokenPipeError):  # `answer` says that it has ended
            print(json.dumps(wanted), file=self.process.stdin, flush=True)
        return statistics.median(self.answer())


def commands(size: Size, image: tuple[int, int, int], options: argparse.Namespace) -> dict[str, list[str]]:
    """What starts each side that there is, by name."""
    common = ["--image", *map(str, image), "--batch", str(size.batch), "--threads", str(options.threads)]
    block = ["--widths", *map(str, size.widths), "--hidden", str(size.hidden)]
    found = {
        f"ours {precision}": [sys.executable, str(DRIVERS / "ours.py"), *common, *block, "--precision", precision]
        for precision in PRECISIONS
    }
    if options.yhgon:
        where = ["--checkout", str(options.yhgon.resolve())]
        found["yhgon"] = [sys.executable, str(DRIVERS / "yhgon.py"), *common, *where]
    if options.nullaprop:
        where = ["--checkout", str(options.nullaprop.resolve())]
        for fusions in ("on", "off"):
            driver = [str(options.jax_python), str(DRIVERS / "nullaprop.py"), *common, *where]
            found[f"nullaprop {fusions}"] = [*driver, "--ynn", fusions]
    return found


def tasks(side: str, size: Size) -> tuple[str, ...]:
    """What a side does in every round."""
    return (TRAIN, TWICE, size.few, size.ours) if side.startswith("ours") else (TRAIN, size.euler, size.heun)


def take_turns(
    size: Size, sides: Mapping[str, list[str]], rounds: int, *, paper_steps: bool
) -> tuple[Seconds, dict[str, Any]]:
    """Start all sides and let them take turns.

    Args:
        size: Of the task.
        sides: Their commands.
        rounds: That count.
        paper_steps: Whether the paper's number of steps is to be measured.

    Returns:
        The seconds, and each side's facts.
    """
    with contextlib.ExitStack() as stack:
        started = {name: stack.enter_context(Side(name, command)) for name, command in sides.items()}
        facts = {name: side.answer() for name, side in started.items()}
        if len(counts := {found.pop("block_parameters") for found in facts.values()}) > 1:
            raise SystemExit(f"the sides have blocks of different sizes: {sorted(counts)} parameters")
        seconds: Seconds = {name: {task: [] for task in tasks(name, size)} for name in started}
        for _ in range(rounds):
            for name, side in started.items():
                for task, taken in seconds[name].items():
                    taken.append(side.turn(task))
        for name, side in started.items() if paper_steps else ():
            # A guess, to decide whether it is worth waiting for; no figure is made from it.
            shorter = seconds[name][tasks(name, size)[-1]][-1]
            if name.startswith("yhgon"):
                shorter = seconds[name][size.euler][-1] * size.paper_steps / size.steps
            if shorter > LONGEST:
                print(f"{name}: {size.paper} left out, it would take about {shorter:.0f} s")
            else:
                seconds[name][size.paper] = [side.turn(size.paper)]
    return seconds, facts


def fastest(seconds: Seconds, peer: str, task: str) -> float | None:
    """The median of a peer's seconds, its faster way where it has two; None if it was not measured."""
    medians = [spread(found[task])[1] for name, found in seconds.items() if name.startswith(peer) and found.get(task)]
    return min(medians, default=None)


def rows(size: Size, shape: str, threads: int, seconds: Seconds) -> list[Row]:
    """Set ours beside each peer, in images per second."""
    common = f"{shape} shape, batch {size.batch}, {threads} threads"
    step, prediction = f"NoProp-CT training step, {common}", f"NoProp-CT prediction, {common}"
    beside = [
        (f"{step}, one pass of the block, the peer's two", TRAIN, TRAIN),
        (f"{step}, two passes of the block as the peer", TWICE, TRAIN),
        (f"{prediction}, {size.few_steps} steps, the peer's {size.steps} of Euler", size.few, size.euler),
        (f"{prediction}, {size.few_steps} steps, the peer's {size.heun_steps} of Heun", size.few, size.heun),
        (f"{prediction}, {size.steps} steps, the peer's {size.steps} of Euler", size.ours, size.euler),
        (f"{prediction}, {size.steps} steps, the peer's {size.heun_steps} of Heun", size.ours, size.heun),
    ]
    if size.paper in seconds[f"ours {PRECISIONS[0]}"]:
        beside.append((f"{prediction}, {size.paper_steps} steps of Euler, both", size.paper, size.paper))
    found = []
    for case, mine, theirs in beside:
        for precision in reversed(PRECISIONS):
            rate = size.batch / spread(seconds[f"ours {precision}"][mine])[1]
            for peer, name in PEERS.items():
                taken = fastest(seconds, peer, theirs)
                other = None if taken is None else size.batch / taken
                where = f"{case}, ours {precision}, peer float32"
                found.append(compare(where, "images_per_second", rate, name, other, less_is_better=False))
    return found


def table(found: list[Row]) -> str:
    """Rows for reading: the rates, and our lead over the faster peer."""
    lines = [f"{'ours':>9} {'peer':>9} {'ratio':>7}  images/s: case | peer"]
    least: dict[str, float] = {}
    for row in found:
        theirs = "" if row.peer_value is None else f"{row.peer_value:.1f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"{row.ours:9.1f} {theirs:>9} {ratio:>7}  {row.case} | {row.peer}")
        if row.ratio is not None:
            least[row.case] = min(row.ratio, least.get(row.case, row.ratio))
    return "\n".join([*lines, "", *(f"{ratio:7.2f}  beside the faster peer: {case}" for case, ratio in least.items())])


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for each side (default 2)")
    parser.add_argument("--yhgon", type=Path, help=f"a checkout of {PEERS['yhgon']}")
    parser.add_argument("--nullaprop", type=Path, help=f"a checkout of {PEERS['nullaprop']}")
    parser.add_argument("--jax-python", type=Path, help="the Python that has nullaprop's requirements")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if bool(options.nullaprop) != bool(options.jax_python):
        parser.error("--nullaprop and --jax-python go together")
    torch.set_num_threads(options.threads)
    size, found, facts = size or Size(), [], {}
    for number, (shape, image) in enumerate(size.images):
        sides = commands(size, image, options)
        seconds, facts = take_turns(size, sides, options.rounds, paper_steps=number == 0)
        found += rows(size, shape, options.threads, seconds)
        print(f"{shape + ', ms':32} {'lowest':>9} {'median':>9} {'highest':>9}")
        for name, by_task in seconds.items():
            for task, taken in by_task.items():
                low, median, high = (1e3 * value for value in spread(taken))
                print(f"{name + ', ' + task:32} {low:9.1f} {median:9.1f} {high:9.1f}")
    peers = {name: about for name, about in facts.items() if about}
    where = {**environment(torch.device("cpu")), "rounds": options.rounds, "peers": peers}
    print("", table(found), sep="\n")
    write_results(options.out, where, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
