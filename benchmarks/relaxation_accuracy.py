"""Time of equilibrium propagation to equal accuracy, beside the authors' code.

    python benchmarks/relaxation_accuracy.py --threads 1 --laborieux /path/to/Equilibrium-Propagation

The networks, phases and batches of MNIST are those of `relaxation_step.py`, and so is the peer (its commit is named
there; see `peers/relaxation_laborieux.py`). Both sides start from the same weights, take the same batches in the same
order and step by Adam; the peer takes its T1 and T2, ours the few steps of even-odd order that the recipes ep/mnist and
ep/mnist-mlp have. Training ends when the accuracy on the last 5,000 images of the training split, which are held out,
reaches the goal; time spent on measuring that does not count. It is measured by our network in the weights of either
side, for both settle to the same states.

Rates: each side of the perceptron is trained with every rate of `--rates`, and its shortest time counts. A step of the
peer's convolutional network takes seconds; there the rates are tried on our side alone and the peer is given the best,
its three phases estimating the same gradient.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import relaxation_step
from _timing import Row, compare, environment, write_results
from beyondprop import data
from peers import relaxation_laborieux

OUT = Path(__file__).resolve().parent / "results" / "relaxation_accuracy.json"
HELD_OUT = 5000
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Race:
    """One network on the way to an accuracy.

    Attributes:
        task: The network, the batch, and the peer's phases.
        free_steps: T1 of our side.
        nudged_steps: T2 of our side.
        goal: Accuracy on what is held out.
        every: Steps between two looks at the accuracy.
        most: Steps, after which a side has failed.
        tune_both: Whether the peer tries all rates, too.
    """

    task: relaxation_step.Task
    free_steps: int
    nudged_steps: int
    goal: float
    every: int
    most: int
    tune_both: bool


RACES = (
    Race(relaxation_step.TASKS[0], 12, 4, 0.97, 50, 3000, tune_both=True),
    Race(relaxation_step.TASKS[1], 8, 3, 0.95, 20, 2000, tune_both=False),
)


@dataclass(frozen=True)
class Images:
    """Training and held-out images and their labels."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches without end, in one order."""
        generator = torch.Generator().manual_seed(0)
        while True:
            order = torch.randperm(len(self.x), generator=generator)
            for index in order[: len(order) // size * size].view(-1, size):
                yield self.x[index], self.y[index]


def load_images() -> Images:
    """MNIST's training split, as numbers from 0 to 1."""
    train = data.load("mnist").train
    x = train.images.float() / (255 if train.images.dtype == torch.uint8 else 1)
    return Images(x[:-HELD_OUT], train.labels[:-HELD_OUT], x[-HELD_OUT:], train.labels[-HELD_OUT:])


def make_sides(race: Race, images: Images, peer: Any) -> tuple[relaxation_step.Ours, Any]:
    """Make both sides with the same weights, whose gradients of equal steps agree; theirs is None without a peer."""
    task, batch = race.task, next(images.batches(race.task.batch))
    equal = relaxation_step.Ours(task, batch, order="synchronous")
    theirs = None
    if peer is not None:
        torch.manual_seed(0)
        theirs = relaxation_laborieux.Theirs(peer, task, batch)
        if (difference := relaxation_step.align(equal, theirs)) > 5e-3:
            raise SystemExit(f"{task.name}: gradients differ from those of the peer by {difference:.1e}")
    few = replace(task, free_steps=race.free_steps, nudged_steps=race.nudged_steps)
    ours = relaxation_step.Ours(few, batch, order="even-odd")
    ours.network.load_state_dict(equal.network.state_dict())
    return ours, theirs


@torch.no_grad()
def accuracy(ours: relaxation_step.Ours, images: Images) -> float:
    """Of our network on what is held out."""
    right = 0
    for x, y in zip(images.held_x.split(500), images.held_y.split(500), strict=True):
        right += int((ours.rule(x).argmax(1) == y).sum())
    return right / len(images.held_y)


def run(race: Race, images: Images, peer: Any, rate: float, *, theirs: bool) -> tuple[int, float] | None:
    """Train one side; return its steps and seconds to the goal, None if it does not reach it."""
    ours, other = make_sides(race, images, peer)
    side = other if theirs else ours
    parameters = other.parameters() if theirs else list(ours.rule.parameters())
    side.optimizer = torch.optim.Adam(parameters, lr=rate)
    seconds = 0.0
    for number, batch in enumerate(images.batches(race.task.batch), 1):
        side.x, side.y = batch
        start = time.perf_counter()
        side.step()
        seconds += time.perf_counter() - start
        if number % race.every == 0:
            if theirs:
                with torch.no_grad():
                    for own, value in zip(ours.rule.parameters(), parameters, strict=True):
                        own.copy_(relaxation_step.arranged(value, own))
            if accuracy(ours, images) >= race.goal:
                return number, seconds
        if number == race.most:
            break
    return None


def measure(race: Race, images: Images, peer: Any, rates: list[float], threads: int) -> list[Row]:
    """Race both sides."""

    def best(tried: list[float], *, theirs: bool) -> tuple[float, int, float]:
        found = []
        for rate in tried:
            result = run(race, images, peer, rate, theirs=theirs)
            print(f"{race.task.name}, {'theirs' if theirs else 'ours'}, rate {rate:g}: {result}", flush=True)
            if result is not None:
                found.append((result[1], result[0], rate))
        if not found:
            raise SystemExit(f"{race.task.name}: no rate led to {race.goal:.0%} in {race.most} steps")
        seconds, steps, rate = min(found)
        return seconds, steps, rate

    seconds, steps, rate = best(rates, theirs=False)
    other: tuple[float | None, int | None, float | None] = (None, None, None)
    if peer is not None:
        other = best(rates if race.tune_both else [rate], theirs=True)
    task, name = race.task, relaxation_laborieux.PEER
    case = f"{task.name}, batch {task.batch}, {threads} threads, to {race.goal:.0%} of held-out images"
    return [
        compare(case, "seconds", seconds, name, other[0], less_is_better=True),
        compare(case, "steps", steps, name, other[1], less_is_better=True),
    ]


def main(arguments: list[str] | None = None, races: tuple[Race, ...] = RACES, images: Images | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default 1)")
    parser.add_argument("--laborieux", type=Path, help=f"a checkout of {relaxation_laborieux.PEER}")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3], help="of Adam")
    parser.add_argument("--only", help="a word of the networks that are trained")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    torch.set_num_threads(options.threads)
    peer = None if options.laborieux is None else relaxation_laborieux.import_peer(options.laborieux.resolve())
    images = load_images() if images is None else images
    found: list[Row] = []
    for race in races:
        if not options.only or options.only in race.task.name:
            found += measure(race, images, peer, options.rates, options.threads)
    print(relaxation_step.table(found))
    write_results(options.out, {**environment(CPU), "rates": options.rates}, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
