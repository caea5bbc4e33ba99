"""Speed of a step of equilibrium propagation, and of settling, beside two public implementations.

    python benchmarks/relaxation_step.py --threads 1 --laborieux /path/to/Equilibrium-Propagation \
        --rain /path/to/energy-based-learning

A step is the free phase of T1 steps from zero states, both nudged phases of T2 steps, the estimate and SGD, in float32,
on one batch of random images in memory. Beside ours stand, where their checkout is given, two peers:

- github.com/Laborieux-Axel/Equilibrium-Propagation at commit 93660ed, by the authors of the three phases: synchronous
  steps by autograd; see `peers/relaxation_laborieux.py`. The networks are theirs: 784-512-10 and 32-64 on MNIST by the
  squared error, with their T1, T2 and batch, and the four convolutions for CIFAR-10 by cross-entropy, where a small
  batch and few steps stand for the paper's: on both sides time is proportional to them.
- github.com/rain-neuromorphics/energy-based-learning at commit 6b253fd, asynchronous, its steps written by hand; see
  `peers/relaxation_rain.py`. Its network of 28x28 pixels, T1 = 60 and T2 = 15 as in its comparison of algorithms.

      git clone https://github.com/Laborieux-Axel/Equilibrium-Propagation
      git -C Equilibrium-Propagation checkout 93660ed6c5b0ec07978b674a69c169ce32e8cd5f
      git clone https://github.com/rain-neuromorphics/energy-based-learning
      git -C energy-based-learning checkout 6b253fd8a5d267535f58ab79992256ef10031ceb

"Equal steps" are the peer's T1 and T2 in the peer's own order. "Half of the steps" are ours in even-odd order, where
half of the steps of a free phase leaves every other state where synchronous ones leave it, and the rest one of those
steps before (up to the switches of max-pooling). Before anything is timed, both sides get the same weights, and the
gradients of equal steps are compared, all layers' together; where they differ nothing is measured.

"To a residual": the steps that each side needs in a free phase, in its own order, until no state moves by more than
that (root mean square), counted beforehand; and the time that so many take, ours in even-odd order, where a step, and
what a state moves by in it, spans two synchronous ones.

The sides take turns, one step each, round by round, in one process; figures are medians. Rows of Hamiltonian echoes are
made by `relaxation_echo.py` where `--slm` gives a checkout of its peer.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop.networks.convergent import ACTIVATIONS, convergent_convolutional, convergent_perceptron
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
from peers import relaxation_laborieux, relaxation_rain

OUT = Path(__file__).resolve().parent / "results" / "relaxation_step.json"
CPU = torch.device("cpu")
CLASSES = 10
PEERS: dict[str, Any] = {"laborieux": relaxation_laborieux, "rain": relaxation_rain}
Order = Literal["even-odd", "sequential", "synchronous"]


@dataclass(frozen=True)
class Task:
    """A network, a batch and the phases.

    Attributes:
        name: For the case.
        peer: Whose network it is.
        image: Channels, height and width.
        widths: Of the hidden layers, or channels.
        activation: Of the states.
        batch: Images.
        free_steps: T1.
        nudged_steps: T2.
        beta: Strength of the nudge.
        kernel: Of the convolutions, 0 for linear layers.
        paddings: Of the convolutions.
        readout: As in the library.
        output: Whether the output state has the activation, too.
        order: In which the peer moves its states.
        residuals: To which the free phase is timed.
    """

    name: str
    peer: str
    image: tuple[int, int, int]
    widths: tuple[int, ...]
    activation: str
    batch: int
    free_steps: int
    nudged_steps: int
    beta: float
    kernel: int = 0
    paddings: tuple[int, ...] = ()
    readout: Literal["softmax", "squared"] = "squared"
    output: bool = True
    order: Order = "synchronous"
    residuals: tuple[float, ...] = (1e-2, 1e-3)


DIGIT = (1, 28, 28)
TASKS = (
    Task("784-512-10", "laborieux", DIGIT, (512,), "steep-sigmoid", 50, 30, 10, 0.1),
    Task("MNIST 32-64", "laborieux", DIGIT, (32, 64), "hard-sigmoid", 100, 200, 10, 0.4, 5, (0, 0)),
    Task(
        *(
            "CIFAR-10 128-256-512-512",
            "laborieux",
            (3, 32, 32),
            (128, 256, 512, 512),
            "half-hard-sigmoid",
            8,
            20,
            5,
            1.0,
        ),
        *(3, (1, 1, 1, 0), "softmax"),
    ),
    Task(
        *("MNIST 32-64, linear output", "rain", DIGIT, (32, 64), "hard-sigmoid", 64, 60, 15, 0.25, 5, (0, 0)),
        *("squared", False, "even-odd"),
    ),
)


class Ours:
    """The library's side of a task."""

    def __init__(self, task: Task, batch: tuple[Tensor, Tensor], *, order: Order) -> None:
        self.task, (self.x, self.y) = task, batch
        torch.manual_seed(0)
        shape = {"hidden": task.widths} if not task.kernel else {"channels": task.widths}
        if task.kernel:
            shape |= {"kernel": task.kernel, "paddings": task.paddings}  # type: ignore[dict-item]
        build: Any = convergent_convolutional if task.kernel else convergent_perceptron
        layers = build(task.image, CLASSES, activation=task.activation, **shape)
        if task.readout == "squared" and task.output:
            layers = nn.Sequential(*layers, ACTIVATIONS[task.activation]())
        self.network = ConvergentNetwork(layers, self.x[:1], readout=task.readout, order=order)
        self.rule = EquilibriumPropagation(
            self.network, beta=task.beta, free_steps=task.free_steps, nudged_steps=task.nudged_steps
        )
        self.optimizer = torch.optim.SGD(self.rule.parameters(), lr=1e-6)

    def step(self) -> None:
        """Take a step."""
        self.optimizer.zero_grad()
        self.rule.backward(self.x, self.y)
        self.optimizer.step()

    @torch.no_grad()
    def settle(self, steps: int) -> None:
        """Take a free phase."""
        self.network.relax(self.network.prepare(self.x), None, steps)

    @torch.no_grad()
    def steps_to(self, residual: float, most: int) -> int | None:
        """Count the steps of a free phase until no state's residual is above that; None where `most` are too few."""
        curve: list[list[float]] = []
        inputs = self.network.prepare(self.x)
        self.network.relax(inputs, None, most, tolerance=residual, residuals=curve)
        return len(curve) if max(curve[-1]) <= residual else None


def make_batch(task: Task) -> tuple[Tensor, Tensor]:
    """Make random images and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(task.batch, *task.image, generator=generator)
    return x, torch.randint(CLASSES, (task.batch,), generator=generator)


def align(ours: Ours, theirs: Any) -> float:
    """Give both sides the same weights; return how far the gradients of equal steps lie apart, relative to theirs.

    Of all layers together: the first ones' are differences of nearly equal states, of which float32 leaves two digits.
    """
    mine, other = list(ours.rule.parameters()), theirs.parameters()
    with torch.no_grad():
        for parameter, value in zip(mine, other, strict=True):
            parameter.copy_(arranged(value, parameter))
    ours.rule.zero_grad()
    ours.rule.backward(ours.x, ours.y)
    theirs.gradients()
    apart, whole = 0.0, 0.0
    for (name, parameter), value in zip(ours.rule.named_parameters(), other, strict=True):
        if parameter.grad is None or value.grad is None:
            raise SystemExit(f"{ours.task.name}: {name} has no gradient on one of the sides")
        expected = arranged(value.grad, parameter)
        apart += float((parameter.grad - expected).square().sum())
        whole += float(expected.square().sum())
    return math.sqrt(apart / whole)


def arranged(value: Tensor, parameter: Tensor) -> Tensor:
    """A peer's parameter in the shape of ours: rain has inputs of a linear layer first, and its shape."""
    return value if value.shape == parameter.shape else value.flatten(0, -2).t()


def their_steps_to(theirs: Any, residual: float, most: int) -> int | None:
    """As `Ours.steps_to`."""
    states = theirs.initial()
    for number in range(1, most + 1):
        after = theirs.settle(states, 1)
        moved = max(float((a - b).detach().norm()) / a.numel() ** 0.5 for a, b in zip(after, states, strict=True))
        if moved <= residual:
            return number
        states = after
    return None


def measure(task: Task, theirs: Any, name: str, rounds: int, threads: int) -> list[Row]:
    """Time a task on all sides, and set them beside each other."""
    batch = make_batch(task)
    equal = Ours(task, batch, order=task.order)
    half = replace(task, free_steps=-(-task.free_steps // 2), nudged_steps=-(-task.nudged_steps // 2))
    quick = Ours(half, batch, order="even-odd")
    if theirs is not None and (difference := align(equal, theirs)) > 5e-3:
        raise SystemExit(f"{task.name}: gradients differ from those of {name} by {difference:.1e}")
    quick.network.load_state_dict(equal.network.state_dict())
    calls: dict[str, Callable[[], object]] = {"equal": equal.step}
    if task.order == "synchronous":
        calls["half"] = quick.step
    if theirs is not None:
        calls["theirs"] = theirs.step
    counted: dict[float, tuple[int, int | None]] = {}
    for residual in task.residuals if task.peer == "laborieux" else ():
        mine = quick.steps_to(residual, task.free_steps)
        other = None if theirs is None else their_steps_to(theirs, residual, 2 * task.free_steps)
        if mine is not None:
            counted[residual] = (mine, other)
            calls[f"settle {residual}"] = lambda steps=mine: quick.settle(steps)
            if other is not None:
                calls[f"their settle {residual}"] = lambda steps=other: theirs.settle(theirs.initial(), steps)
    median = {key: spread(taken)[1] for key, taken in interleave(calls, rounds, 1, CPU).items()}
    where = f"{task.name}, batch {task.batch}, T1 {task.free_steps}, T2 {task.nudged_steps}, {threads} threads"
    found = [
        compare(f"{where}, equal steps", "seconds", median["equal"], name, median.get("theirs"), less_is_better=True)
    ]
    if "half" in median:
        case = f"{where}, half of the steps"
        found.append(compare(case, "seconds", median["half"], name, median.get("theirs"), less_is_better=True))
    for residual, (mine, other) in counted.items():
        case = f"{task.name}, batch {task.batch}, {threads} threads, free phase to a residual of {residual:g}"
        found.append(compare(case, "steps", mine, name, other, less_is_better=True))
        other_time = median.get(f"their settle {residual}")
        found.append(compare(case, "seconds", median[f"settle {residual}"], name, other_time, less_is_better=True))
    return found


def table(found: list[Row]) -> str:
    """Rows for reading."""
    lines = [f"{'ours':>10} {'peer':>10} {'ratio':>6}"]
    for row in found:
        theirs = "" if row.peer_value is None else f"{row.peer_value:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"{row.ours:10.4g} {theirs:>10} {ratio:>6}  {row.case} | {row.metric} | {row.peer}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None, tasks: tuple[Task, ...] = TASKS) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each side (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default 1)")
    parser.add_argument("--laborieux", type=Path, help=f"a checkout of {relaxation_laborieux.PEER}")
    parser.add_argument("--rain", type=Path, help=f"a checkout of {relaxation_rain.PEER}")
    parser.add_argument("--slm", type=Path, help="a checkout of the peer of `relaxation_echo.py`")
    parser.add_argument("--recurrent", action="store_true", help="also the rows of `relaxation_recurrent.py`")
    parser.add_argument("--only", help="a word of the tasks that are measured")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    found: list[Row] = []
    for task in tasks:
        if options.only and options.only not in task.name:
            continue
        module, checkout = PEERS[task.peer], getattr(options, task.peer)
        theirs = None
        if checkout is not None:
            torch.manual_seed(0)
            theirs = module.Theirs(module.import_peer(checkout.resolve()), task, make_batch(task))
        found += measure(task, theirs, module.PEER, options.rounds, options.threads)
        print(table(found[-1:]), flush=True)
    if options.slm is not None:
        found += importlib.import_module("relaxation_echo").rows(options.slm.resolve(), options.rounds)
    if options.recurrent:
        found += importlib.import_module("relaxation_recurrent").rows(options.rounds)
    print(table(found))
    write_results(options.out, {**environment(CPU), "rounds": options.rounds}, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
