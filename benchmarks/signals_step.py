"""Speed and memory of a step of the rules with teaching signals, beside plain autograd and two public peers.

    python benchmarks/signals_step.py --rounds 3 --threads 2 \
        --frenkel /path/to/DirectRandomTargetProjection --biotorch /path/to/biotorch

A step is zero_grad, the forward pass, the rule, and the optimizer: SGD with Nesterov's momentum, cross-entropy, on one
batch of random images. No evaluation, no loading of data. Every rule of the catalogue's family "signals" that supports
the network is measured. The networks are those of arXiv 1909.01311 (`beyondprop.networks.classifiers`): a perceptron
784-1000-1000-10, a convolutional one (32 maps of 5x5, pooling, 1000, 10), tanh, batch 128; and a perceptron 64-32-32-10
at batch 32, where nothing but the overhead counts. All in float32 and under bf16 autocast. Every side counts its
trained parameters; unless they are equal nothing is compared. Beside ours stand:

- Back-propagation by plain autograd, with every switch that ours has.
- github.com/ChFrenkel/DirectRandomTargetProjection at commit b84e3fe, by the authors of DRTP: BP, FA, DFA, sDFA, DRTP;
  see `peers/signals_frenkel.py`.
- github.com/jsalbert/biotorch at commit 74fad0d: FA, DFA, uSF, frSF, brSF; see `peers/signals_biotorch.py`.

      git clone https://github.com/ChFrenkel/DirectRandomTargetProjection
      git -C DirectRandomTargetProjection checkout b84e3fe965bf98b8531f3036604cbe16424a5cc6
      git clone https://github.com/jsalbert/biotorch
      git -C biotorch checkout 74fad0dd32529e754e4bba8298d4e0fd0a06a886

  What stands in for parts of them is told in these two files; nothing in theirs is changed.

torch has two switches for speed that change nothing else: the optimizer's fused form, and channels_last for images.
Ours has them on. The peers' programs have neither, and so each of them stands here twice: as it is, and with both
switches put on from outside.

Operations. A forward pass of a layer is one product, its weight's gradient a second, its input's gradient a third,
which the first layer does not need. Back-propagation and chained feedback do all of them; direct feedback and target
projection never do the third, which leaves 0.78 of the operations at the perceptron and 0.69 at the convolutional
network: that bounds what they can gain where nothing but products costs. The peers do all three by every rule; where
the rule does not need the third, its result is dropped.

Each side is a process of its own. They take turns, round by round, each rule next to its counterparts, one at work
while the others wait; a turn is a few steps, the first not counted, and gives their median. The figures are made
from the median of the rounds. glibc is told to keep freed memory, on all sides alike: whether it gives pages back to
the system depends on the order in which tensors happen to be freed. A peer's value is null without a checkout, and
where its step fails: some of its own backward passes cannot take bf16.

Memory is counted tensor by tensor (`beyondprop.measure`), the same on every machine, in float32 with the switches off.
The last rows are about depth: DRTP and tpSGD differentiate a layer as soon as it is computed and free its graph, so
that activations take the same memory however many layers there are. Gradients stay until the optimizer's step, as
those of any rule do; they have the parameters' size and are not counted among activations.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from _timing import Row, compare, environment, spread, write_results
from beyondprop.measure import peak_live_bytes, peak_saved_bytes
from beyondprop.networks.classifiers import perceptron
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.target_projection import DRTP, TPSGD
from noprop_timed import Side

OUT = Path(__file__).resolve().parent / "results" / "signals_step.json"
DRIVERS = Path(__file__).resolve().parent / "peers"
PRECISIONS = ("float32", "bf16")
PLAIN = "plain"
PEERS = {"frenkel": "ChFrenkel/DirectRandomTargetProjection@b84e3fe", "biotorch": "jsalbert/biotorch@74fad0d"}
COUNTERPARTS = {
    "frenkel": {"bp": "BP", "fa": "FA", "dfa": "DFA", "sdfa": "sDFA", "drtp": "DRTP"},
    "biotorch": {
        "fa": "fa",
        "dfa": "dfa",
        "sign-symmetry uSF": "usf",
        "sign-symmetry frSF": "frsf",
        "sign-symmetry brSF": "brsf",
    },
}
CALLS, TURN_SECONDS = 20, 0.25
KEEP_MEMORY = ("MALLOC_MMAP_THRESHOLD_=1073741824", "MALLOC_TRIM_THRESHOLD_=4294967296")


@dataclass(frozen=True)
class Task:
    """A network and a batch."""

    name: str
    network: str
    image: tuple[int, int, int]
    hidden: int
    batch: int


@dataclass(frozen=True)
class Size:
    """What is measured."""

    tasks: tuple[Task, ...] = (
        Task("perceptron 784-1000-1000-10", "perceptron", (1, 28, 28), 1000, 128),
        Task("convolutional 32c5-1000-10", "convolutional", (1, 28, 28), 1000, 128),
        Task("perceptron 64-32-32-10", "perceptron", (1, 8, 8), 32, 32),
    )
    depths: tuple[int, ...] = (2, 4, 8, 16)
    depth_hidden: int = 1000
    depth_batch: int = 128


Seconds = dict[tuple[str, str, str, str], list[float]]  # by side, method, precision and switches, one for each round


def commands(task: Task, options: argparse.Namespace) -> dict[str, list[str]]:
    """What starts each side that there is, by name."""
    common = ["--image", *map(str, task.image), "--batch", str(task.batch), "--threads", str(options.threads)]
    common += ["--network", task.network, "--hidden", str(task.hidden)]
    start = ["env", *KEEP_MEMORY, sys.executable]
    found = {"ours": [*start, str(DRIVERS / "signals_ours.py"), *common]}
    for peer in PEERS:
        if checkout := getattr(options, peer):
            driver = str(DRIVERS / f"signals_{peer}.py")
            found[peer] = [*start, driver, *common, "--checkout", str(checkout.resolve())]
    return found


def plan(facts: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The turns of a round: each rule next to its counterparts."""
    turns = []
    for precision in PRECISIONS:
        for method, about in facts["ours"]["methods"].items():
            if precision not in about["precisions"]:
                continue
            turns.append(("ours", method, precision, "on"))
            for peer, counterparts in COUNTERPARTS.items():
                theirs = counterparts.get(method, "")
                if peer in facts and theirs and precision in facts[peer]["methods"][theirs]["precisions"]:
                    turns += [(peer, theirs, precision, switches) for switches in ("off", "on")]
    return turns


def take_turns(task: Task, options: argparse.Namespace) -> tuple[Seconds, dict[str, Any]]:
    """Start all sides and let them take turns.

    Returns:
        The seconds, and each side's facts.
    """
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(Side(name, command)) for name, command in commands(task, options).items()}
        facts = {name: side.answer() for name, side in sides.items()}
        check_parameters(facts)
        seconds: Seconds = {turn: [] for turn in plan(facts)}
        for _ in range(options.rounds):
            for turn, taken in seconds.items():
                side, *wanted = turn
                taken.append(sides[side].turn(" | ".join(wanted), CALLS, TURN_SECONDS))
    return seconds, facts


def check_parameters(facts: Mapping[str, Any]) -> None:
    """Refuse to compare networks of different sizes."""
    expected = facts["ours"]["methods"][PLAIN]["trained_parameters"]
    for peer, counterparts in COUNTERPARTS.items():
        for method in counterparts.values() if peer in facts else ():
            if (found := facts[peer]["methods"][method]["trained_parameters"]) != expected:
                raise SystemExit(f"{peer} trains {found} parameters by {method}, back-propagation {expected}")


def rows(task: Task, threads: int, seconds: Seconds, facts: Mapping[str, Any]) -> list[Row]:
    """Set each rule beside back-propagation and its counterparts."""
    found = []

    def rate(*turn: str) -> float | None:
        taken = seconds.get(turn)  # type: ignore[call-overload]
        return task.batch / spread(taken)[1] if taken else None

    def bytes_rows(case: str, mine: str, peer: str, side: str, theirs: str) -> None:
        ours, other = facts["ours"]["methods"][mine], facts.get(side, {"methods": {}})["methods"].get(theirs, {})
        for metric, value in ours.items():
            if metric.endswith("bytes"):
                found.append(compare(case, metric, value, peer, other.get(metric), less_is_better=True))

    for method in facts["ours"]["methods"]:
        if method == PLAIN:
            continue
        case = f"{method} step, {task.name}, batch {task.batch}"
        beside = [("back-propagation by plain autograd", "ours", PLAIN, "on", "")]
        for peer, counterparts in COUNTERPARTS.items():
            if method in counterparts:
                beside.append((PEERS[peer], peer, counterparts[method], "off", ", the peer as it is"))
                beside.append((PEERS[peer], peer, counterparts[method], "on", ", the peer fused and channels_last"))
        for precision in PRECISIONS:
            if (mine := rate("ours", method, precision, "on")) is None:
                continue
            for peer, side, theirs, switches, note in beside:
                where = f"{case}, {threads} threads, {precision}{note}"
                other = rate(side, theirs, precision, switches)
                found.append(compare(where, "images_per_second", mine, peer, other, less_is_better=False))
        for peer, side, theirs, switches, _ in beside:
            if side == "ours" or switches == "off":
                bytes_rows(f"{case}, float32", method, peer, side, theirs)
    return found


def depth_rows(size: Size) -> list[Row]:
    """Count the memory of target projection at growing depth, beside that of back-propagation."""
    found = []
    for depth in size.depths:
        peak = {}
        for name, rule in (("bp", Backprop), ("drtp", DRTP), ("tpsgd", TPSGD)):
            network = perceptron((1, 28, 28), 10, hidden=size.depth_hidden, depth=depth)
            x, y = torch.randn(size.depth_batch, 1, 28, 28), torch.randint(10, (size.depth_batch,))
            made = rule.for_classifier(network, x, 10)
            peak[name] = activation_bytes(made, x, y)
        case = f"{depth} hidden layers of {size.depth_hidden}, batch {size.depth_batch}, float32"
        for name in ("drtp", "tpsgd"):
            for metric, value in peak[name].items():
                where, peer = f"{name} backward, {case}", "bp by the library, the same network"
                found.append(compare(where, metric, value, peer, peak["bp"][metric], less_is_better=True))
    return found


def activation_bytes(rule: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, int]:
    """Count what is alive beside parameters, feedback, gradients and the batch, and what is kept for backward."""

    def step() -> None:
        rule.zero_grad()
        rule.backward(x, y)  # type: ignore[operator]

    step()
    return {
        "peak_activation_bytes": peak_live_bytes(step, rule)["highest_activations"],
        "peak_saved_for_backward_bytes": peak_saved_bytes(step, rule),
    }


def table(found: list[Row]) -> str:
    """Rows of speed for reading, and those of depth."""
    lines = [f"{'ours':>10} {'peer':>10} {'ratio':>6}"]
    for row in found:
        if row.metric == "images_per_second" or " backward, " in row.case:
            unit = 1e-6 if row.metric.endswith("bytes") else 1
            theirs = "" if row.peer_value is None else f"{unit * row.peer_value:.2f}"
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            metric = row.metric.replace("bytes", "MB") + ", " if unit != 1 else ""
            lines.append(f"{unit * row.ours:10.2f} {theirs:>10} {ratio:>6}  {metric}{row.case} | {row.peer}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for each side (default 2)")
    parser.add_argument("--frenkel", type=Path, help=f"a checkout of {PEERS['frenkel']}")
    parser.add_argument("--biotorch", type=Path, help=f"a checkout of {PEERS['biotorch']}")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    size, found = size or Size(), []
    for task in size.tasks:
        seconds, facts = take_turns(task, options)
        found += rows(task, options.threads, seconds, facts)
        print(f"{task.name + ', ms':60} {'lowest':>9} {'median':>9} {'highest':>9}")
        for turn, taken in seconds.items():
            low, median, high = (1e3 * value for value in spread(taken))
            print(f"{', '.join(turn):60} {low:9.3f} {median:9.3f} {high:9.3f}")
    found += depth_rows(size)
    print("", table(found), sep="\n")
    write_results(options.out, {**environment(torch.device("cpu")), "rounds": options.rounds}, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
