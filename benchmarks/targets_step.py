"""Speed of a step of difference target propagation in all variants, beside the authors' code.

    python benchmarks/targets_step.py --meulemans /path/to/theoretical_framework_for_target_propagation

A step is the forward pass, both gradients (the network's by the feedback of before, the feedback's), and Adam on both;
one batch of random images, cross-entropy, tanh, one noisy sample for each. No evaluation, no loading of data. The
networks are the paper's: 784-5x256-10 and 3072-3x1024-10, batch 128, in float64, as the authors have it, and float32.
Beside ours stands the code of the paper's authors at commit b6ee350, see `peers/targets_meulemans.py`:

    git clone https://github.com/meulemansalex/theoretical_framework_for_target_propagation
    git -C theoretical_framework_for_target_propagation checkout b6ee350c238be645e9cb42e12c79606f28f20f11

as it is, and with torch's fused Adam put on from outside, which ours has. Before anything is timed, both sides get the
same weights, feedback and noise in float64, and all gradients are compared; unless they are equal nothing is measured.

Operations. In units of one product of a hidden layer with the batch, for L hidden layers of equal width:
back-propagation takes L - 1 forward, as many for the weights, as many for the inputs, and two of the first layer.
Linear DDTP takes no third, and sends the perturbed layers on as one batch, (L - 1) L / 2 in all less the small ones;
with L = 5 that is 1.4 of back-propagation's operations, the first layer counted. DTPDR comes back the same way, and
DTP goes forward and back by one layer from each.

The sides take turns, one step each, round by round, in one process; figures are made from the median of the rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop.networks.classifiers import xavier_normal
from beyondprop.rule import Rule
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.direct_target_propagation import DDTP
from beyondprop.rules.signals.target_propagation import DTP, DTPDR, LearnedTargets
from peers.targets_meulemans import PEER, TYPES, Theirs, import_peer, known_noise

OUT = Path(__file__).resolve().parent / "results" / "targets_step.json"
CPU = torch.device("cpu")
CLASSES = 10


@dataclass(frozen=True)
class Task:
    """A perceptron and a batch."""

    name: str
    inputs: int
    hidden: tuple[int, ...]
    random: int
    batch: int = 128


@dataclass(frozen=True)
class Settings:
    """What both sides share; of it, only the length of the random layer changes the time."""

    hidden: int
    target_step: float = 0.1
    """As the authors have it: of the gradient of the batch's mean loss."""
    noise: float = 0.08
    rate: float = 1e-4


TASKS = (
    Task("784-5x256-10", 784, (256,) * 5, 1024),
    Task("3072-3x1024-10", 3072, (1024,) * 3, 2048),
)
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def our_rule(task: Task, method: str, dtype: torch.dtype) -> Rule:
    """Make a rule on the task's network."""
    layers: list[nn.Module] = []
    for before, after in zip((task.inputs, *task.hidden[:-1]), task.hidden, strict=True):
        layers += [nn.Linear(before, after), nn.Tanh()]
    if method == "ddtp linear":
        layers[-2] = nn.Linear(before, after, bias=False)  # so the authors have it, in this variant alone
    network = xavier_normal(nn.Sequential(*layers, nn.Linear(task.hidden[-1], CLASSES))).to(dtype)
    example, options = (
        torch.zeros(1, task.inputs, dtype=dtype),
        {"noise": Settings.noise, "target_step": Settings.target_step / task.batch},
    )
    if method == "bp":
        return Backprop(network)
    if method in ("dtp", "dtpdr"):
        return (DTP if method == "dtp" else DTPDR)(network, example, **options)
    return DDTP(network, example, feedback=method.split()[1], hidden=task.random, **options)  # type: ignore[arg-type]


def our_step(rule: Rule, batch: tuple[Tensor, Tensor]) -> Callable[[], object]:
    """Make a step of the library."""
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=Settings.rate, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        rule.backward(*batch)
        optimizer.step()

    return step


def make_batch(task: Task, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Make random images and labels."""
    torch.manual_seed(0)
    return torch.randn(task.batch, task.inputs, dtype=dtype), torch.randint(CLASSES, (task.batch,))


def their_side(peer: Any, task: Task, method: str, dtype: torch.dtype, *, fused: bool) -> Theirs:
    """Make the peer's network."""
    widths = [task.inputs, *task.hidden, CLASSES]
    settings = Settings(task.random)
    return Theirs(peer, method, widths, make_batch(task, dtype), settings, fused=fused)


def largest_difference(peer: Any, task: Task, method: str) -> float:
    """Compare all gradients at equal weights and noise in float64, each relative to its largest number."""
    rule = our_rule(task, method, torch.float64)
    theirs = their_side(peer, task, method, torch.float64, fused=False)
    network = rule.parameter_groups()[0]["params"]
    pairs = list(zip(network, theirs.forward_parameters(), [1.0] * len(network), strict=True))
    if isinstance(rule, LearnedTargets):
        # Ours are divided by 2 eta / N, where N is in their eta already; their feedback's loss is a mean over units.
        pairs = [(mine, other, task.batch / (2 * Settings.target_step)) for mine, other, _ in pairs]
        pairs += feedback_pairs(rule, theirs)
    with torch.no_grad():
        for mine, other, _ in pairs:
            other.copy_(mine.t() if mine.shape != other.shape else mine)
        if isinstance(rule, DDTP) and rule.kind == "rhl":
            theirs.network.hidden_feedback_layer.weight.copy_(rule.spread.t())
            theirs.network.hidden_feedback_layer.bias.copy_(rule.shift)
    if isinstance(rule, LearnedTargets):
        rule.noises = lambda values: [rule.noise * regular(value) for value in values]  # type: ignore[method-assign]
    rule.backward(*make_batch(task, torch.float64))
    with known_noise(regular):
        theirs.gradients()
    found = 0.0
    for mine, other, scale in pairs:
        assert mine.grad is not None
        assert other.grad is not None
        expected = scale * (other.grad.t() if mine.shape != other.grad.shape else other.grad)
        found = max(found, float((mine.grad - expected).abs().max() / expected.abs().max()))
    return found


def regular(value: Tensor) -> Tensor:
    """What both sides have in the place of random numbers while they are compared."""
    return torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)


def feedback_pairs(rule: LearnedTargets, theirs: Theirs) -> list[tuple[Tensor, Tensor, float]]:
    """Set our feedback's parameters beside theirs, with the factor of their gradients."""
    pairs: list[tuple[Tensor, Tensor, float]] = []
    for index, shape in enumerate(rule.chain.shapes[:-1]):
        weight, bias = theirs.feedback(index)
        units = float(shape[0])
        if isinstance(rule, DDTP):
            name = rule.chain.units[index].name
            pairs.append((rule.feedback[name], weight, units))
            if rule.kind != "linear" and bias is not None:
                pairs.append((rule.feedback[f"{name} bias"], bias, units))
        else:
            layer = rule.feedback[index].layer  # type: ignore[index]
            pairs += [(layer.weight, weight, units), (layer.bias, bias, units)]  # type: ignore[list-item]
    return pairs


def steps(task: Task, dtype: torch.dtype, peer: Any) -> dict[str, Callable[[], object]]:
    """Make the steps of all sides, each method next to its counterparts."""
    found: dict[str, Callable[[], object]] = {}
    for method in TYPES:
        torch.manual_seed(0)
        found[f"ours {method}"] = our_step(our_rule(task, method, dtype), make_batch(task, dtype))
        if peer is not None:
            found[f"theirs {method}"] = their_side(peer, task, method, dtype, fused=False).step
            found[f"fused {method}"] = their_side(peer, task, method, dtype, fused=True).step
    return found


def rows(task: Task, dtype: str, seconds: Mapping[str, list[float]], threads: int) -> list[Row]:
    """Set each method beside the peer's, and beside our own back-propagation."""
    found = []
    median = {name: spread(taken)[1] for name, taken in seconds.items()}
    for method in TYPES:
        case = f"{method} step, {task.name}, batch {task.batch}, {threads} threads, {dtype}"
        mine = median[f"ours {method}"]
        for side, note in (("theirs", "the peer as it is"), ("fused", "the peer with fused Adam")):
            other = median.get(f"{side} {method}")
            found.append(compare(f"{case}, {note}", "seconds", mine, PEER, other, less_is_better=True))
        if method != "bp":
            found.append(compare(case, "seconds", mine, "bp by the library", median["ours bp"], less_is_better=True))
    return found


def table(found: list[Row]) -> str:
    """Rows for reading, in milliseconds."""
    lines = [f"{'ours':>9} {'peer':>9} {'ratio':>6}"]
    for row in found:
        theirs = "" if row.peer_value is None else f"{1e3 * row.peer_value:.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"{1e3 * row.ours:9.2f} {theirs:>9} {ratio:>6}  {row.case} | {row.peer}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None, tasks: tuple[Task, ...] = TASKS) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each side (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default 2)")
    parser.add_argument("--meulemans", type=Path, help=f"a checkout of {PEER}")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    peer = None if options.meulemans is None else import_peer(options.meulemans.resolve())
    found: list[Row] = []
    for task in tasks:
        for method in TYPES if peer is not None else ():
            if (difference := largest_difference(peer, task, method)) > 1e-8:
                raise SystemExit(f"{method} on {task.name}: gradients differ from the peer's by {difference:.1e}")
        for name, dtype in DTYPES.items():
            taken = interleave(steps(task, dtype, peer), options.rounds, 3, CPU)
            found += rows(task, name, taken, options.threads)
    print(table(found))
    write_results(options.out, {**environment(CPU), "rounds": options.rounds}, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
