"""Rules that step by least squares (BPC, semi-implicit, ProxProp) beside SGD, NAG, RMSProp and Adam on one perceptron.

    python benchmarks/proximal_steps.py --threads 2

The network is 784-256-256-10 with ReLU on MNIST; batches of 128 images, constant step sizes, no weight decay. 5000
images of the training set are held out.

1. Choosing: every rule trains 100 batches with each step of one grid, 10^-4 to 10^4 by half decades, and takes that of
   the highest accuracy on the held-out images. So each rule has the same effort. A step counts as stable if the loss of
   the last ten batches is finite and lower than that of the first; the largest such step is written down.
2. Training: every rule trains with its step on all other training images, in turns of a quarter of an epoch, so that
   whatever disturbs the machine disturbs all alike. Accuracy is measured after each turn, outside the clock.

"Step" is the learning rate, except for those that take an implicit step with learning rate 1: eta of semi-implicit
back-propagation (lambda = 30, SGD) and tau of ProxProp (Nesterov's momentum 0.95, as in its authors' experiments). BPC
has c = 30, NAG momentum 0.9.

"After equal time" is the last turn that each rule had finished when the fastest one was done with all. No choice looks
at the test images. The table is written to `benchmarks/results/proximal_steps.json`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from _timing import Row, compare, environment, write_results
from beyondprop import BPC, Backprop, ProxProp, SemiImplicit, data
from beyondprop.data import Statistics
from beyondprop.errors import UserError
from beyondprop.networks.classifiers import perceptron
from beyondprop.rule import Rule, without_trace

OUT = Path(__file__).resolve().parent / "results" / "proximal_steps.json"
GRID = tuple(10 ** (half / 2) for half in range(-8, 9))
NAMED_STEPS = (0.1, 1.0, 10.0)
TURNS = 4  # of an epoch


@dataclass(frozen=True)
class Size:
    """Of the comparison."""

    dataset: str = "mnist"
    hidden: int = 256
    held_out: int = 5000
    batch: int = 128
    trial: int = 100
    epochs: int = 4
    seeds: int = 3
    grid: tuple[float, ...] = GRID


@dataclass(frozen=True)
class Method:
    """A rule and an optimizer, with one step size to be chosen."""

    rule: Callable[[nn.Module, float], Rule]
    optimizer: Callable[[Rule, float], Optimizer]


def plain(network: nn.Module, _step: float) -> Rule:
    """Back-propagation."""
    return Backprop(network)


def projected(network: nn.Module, _step: float) -> Rule:
    """BPC by affine projection."""
    return BPC(network, regularisation=30.0)


OPTIMIZERS: dict[str, Callable[[Rule, float], Optimizer]] = {
    "SGD": lambda rule, step: SGD(rule.parameters(), lr=step),
    "NAG": lambda rule, step: SGD(rule.parameters(), lr=step, momentum=0.9, nesterov=True),
    "RMSProp": lambda rule, step: RMSprop(rule.parameters(), lr=step),
    "Adam": lambda rule, step: Adam(rule.parameters(), lr=step),
}
METHODS = {
    **{name: Method(plain, optimizer) for name, optimizer in OPTIMIZERS.items()},
    **{f"BPC on {name}": Method(projected, optimizer) for name, optimizer in OPTIMIZERS.items()},
    "BPC, normalised, on SGD": Method(
        lambda network, _step: BPC(network, form="normalised", regularisation=30.0), OPTIMIZERS["SGD"]
    ),
    "semi-implicit": Method(
        lambda network, step: SemiImplicit(network, step=step, regularisation=30.0),
        lambda rule, _step: SGD(rule.parameters(), lr=1.0),
    ),
    **{
        name: Method(
            lambda network, step, steps=steps: ProxProp(network, tau=step, cg_steps=steps),
            lambda rule, _step: SGD(rule.parameters(), lr=1.0, momentum=0.95, nesterov=True),
        )
        for name, steps in {"ProxProp, exact": None, "ProxProp, 3 CG steps": 3}.items()
    },
}
PROXPROPS = ("ProxProp, exact", "ProxProp, 3 CG steps")
PEERS = {
    **{f"BPC on {name}": (name, "ProxProp, exact") for name in OPTIMIZERS},
    "BPC, normalised, on SGD": ("SGD", "BPC on SGD"),
    "semi-implicit": (*OPTIMIZERS, *PROXPROPS),
}


@dataclass
class Images:
    """All splits as rows of numbers."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    image: tuple[int, int, int]
    classes: int


def load(size: Size) -> Images:
    """Read the data set, hold images out, normalise all by the rest."""
    splits = data.load(size.dataset)
    train, held_out = data.hold_out(splits.train, size.held_out, seed=0)
    channels, height, width = train.images.shape[1:]
    statistics_ = Statistics.of(train)

    def whole(part: data.ImageSet) -> tuple[Tensor, Tensor]:
        return next(iter(data.Batches(part, len(part), shuffle=False, statistics=statistics_)))

    return Images(whole(train), whole(held_out), whole(splits.test), (channels, height, width), train.classes)


@dataclass
class Training:
    """One rule in training, and what was measured on the way."""

    rule: Rule
    optimizer: Optimizer
    seconds: float = 0.0
    diverged: bool = False
    losses: list[float] = field(default_factory=list)
    records: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, method: Method, step: float, images: Images, size: Size, seed: int) -> Training:
        """Make the network, the same for all methods, and what trains it."""
        torch.manual_seed(seed)
        network = perceptron(images.image, images.classes, hidden=size.hidden, activation="relu")
        rule = method.rule(network, step)
        return cls(rule, method.optimizer(rule, step))

    def run(self, images: Images, batches: list[Tensor]) -> None:
        """Train on batches of indices; a loss that is not finite ends it for good."""
        x, y = images.train
        losses: list[Tensor] = []
        start = time.perf_counter()
        for rows in batches if not self.diverged else []:
            self.optimizer.zero_grad()
            try:
                losses.append(self.rule.backward(x[rows], y[rows]))
            except UserError:
                self.diverged = True
                break
            self.optimizer.step()
        self.seconds += time.perf_counter() - start
        self.losses += [loss.item() for loss in losses]

    def record(self, images: Images, turn: int) -> None:
        """Note time, loss and accuracy; what diverged has the accuracy of its last weights."""
        recent = self.losses[-turn:]
        self.records.append(
            {
                "seconds": self.seconds,
                "train_loss": statistics.fmean(recent) if recent and not self.diverged else math.inf,
                "validation_accuracy": self.accuracy(images.held_out),
                "test_accuracy": self.accuracy(images.test),
            }
        )

    def accuracy(self, part: tuple[Tensor, Tensor]) -> float:
        """On a split."""
        with without_trace(self.rule):
            return (self.rule(part[0]).argmax(dim=1) == part[1]).double().mean().item()

    @property
    def stable(self) -> bool:
        """Whether the loss is finite and has fallen."""
        late = statistics.fmean(self.losses[-10:])
        return not self.diverged and math.isfinite(late) and late < self.losses[0]


@dataclass
class Choice:
    """What the trials of one method found."""

    step: float
    largest_stable: float | None
    accuracy_by_step: dict[float, float]


def choose(method: Method, images: Images, size: Size) -> Choice:
    """Try every step of the grid."""
    torch.manual_seed(0)
    batches = list(torch.randperm(len(images.train[1]))[: size.trial * size.batch].split(size.batch))
    accuracies: dict[float, float] = {}
    stable: list[float] = []
    for step in size.grid:
        training = Training.of(method, step, images, size, seed=0)
        training.run(images, batches)
        accuracies[step] = training.accuracy(images.held_out)
        stable += [step] * training.stable
    return Choice(max(accuracies, key=accuracies.__getitem__), max(stable, default=None), accuracies)


def train_all(choices: dict[str, Choice], images: Images, size: Size, seed: int) -> dict[str, Training]:
    """Train every method, by turns."""
    running = {name: Training.of(METHODS[name], choice.step, images, size, seed) for name, choice in choices.items()}
    for training in running.values():
        training.record(images, 0)  # untrained: all that a slow rule may have when time is up
    torch.manual_seed(seed)
    for _ in range(size.epochs):
        batches = torch.randperm(len(images.train[1])).split(size.batch)
        turn = math.ceil(len(batches) / TURNS)
        for first in range(0, len(batches), turn):
            for training in running.values():
                training.run(images, list(batches[first : first + turn]))
                training.record(images, turn)
    return running


def at_equal_time(running: dict[str, Training]) -> dict[str, dict[str, float]]:
    """The last record of each that was there when the fastest was done."""
    limit = min(training.seconds for training in running.values() if not training.diverged)
    return {
        name: next(record for record in reversed(training.records) if record["seconds"] <= limit)
        for name, training in running.items()
    }


def rows(choices: dict[str, Choice], trainings: list[dict[str, Training]], images: Images, size: Size) -> Iterator[Row]:
    """Set every rule beside its peers."""
    network = f"{size.dataset}, perceptron with 2x{size.hidden}"
    ends = [{name: training.records[-1] for name, training in running.items()} for running in trainings]
    early = [at_equal_time(running) for running in trainings]
    speed = {
        name: statistics.fmean(
            len(running[name].losses) * size.batch / max(running[name].seconds, 1e-9) for running in trainings
        )
        for name in choices
    }
    for ours, peers in PEERS.items():
        for peer in peers:

            def row(
                case: str,
                metric: str,
                mine: float | None,
                theirs: float | None,
                *,
                less: bool = False,
                us: str = ours,
                them: str = peer,
            ) -> Row:
                known = theirs if theirs and math.isfinite(theirs) else None
                return compare(f"{network}, {case}: {us}", metric, mine or 0.0, them, known, less_is_better=less)

            for case, records in ((f"after {size.epochs} epochs", ends), ("after equal time", early)):
                for metric in ("validation_accuracy", "test_accuracy", "train_loss"):
                    means = [statistics.fmean(record[name][metric] for record in records) for name in (ours, peer)]
                    if math.isfinite(means[0]) and means[0] > 0:
                        yield row(case, metric, *means, less=metric == "train_loss")
            yield row("training", "images_per_second", speed[ours], speed[peer])
            yield row("trials", "chosen_step", choices[ours].step, choices[peer].step)
            yield row("trials", "largest_stable_step", choices[ours].largest_stable, choices[peer].largest_stable)
            yield row("trials", "largest_tried_step", size.grid[-1], size.grid[-1])
            for step in NAMED_STEPS if ours == "semi-implicit" else ():
                found = [choices[name].accuracy_by_step.get(step) for name in (ours, peer)]
                if None not in found:
                    yield row(f"{size.trial} batches at step {step:g}", "validation_accuracy", *found)


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Choose, train, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=Size.seeds, help="trainings to average over (default 3)")
    parser.add_argument("--epochs", type=int, default=Size.epochs, help="of each training (default 4)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own number")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    size = size or Size(seeds=options.seeds, epochs=options.epochs)
    images = load(size)
    choices = {}
    for name, method in METHODS.items():
        choices[name] = found = choose(method, images, size)
        best = found.accuracy_by_step[found.step]
        print(f"{name:24} step {found.step:.3g} ({100 * best:.2f} %), stable to {found.largest_stable}", flush=True)
    trainings = [train_all(choices, images, size, seed) for seed in range(size.seeds)]
    print(f"\n{'':24} validation, test after {size.epochs} epochs; after equal time; seconds")
    early = [at_equal_time(running) for running in trainings]
    for name in METHODS:
        parts = [
            100 * statistics.fmean(record[metric] for record in records)
            for records in ([running[name].records[-1] for running in trainings], [found[name] for found in early])
            for metric in ("validation_accuracy", "test_accuracy")
        ]
        seconds = statistics.fmean(running[name].seconds for running in trainings)
        print(f"{name:24} {parts[0]:.2f} {parts[1]:.2f}; {parts[2]:.2f} {parts[3]:.2f}; {seconds:.1f}")
    write_results(options.out, environment(torch.device("cpu")), list(rows(choices, trainings, images, size)))
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
