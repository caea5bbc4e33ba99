"""Speed and memory of a step of the local rules, beside three public peers and plain autograd.

    python benchmarks/local_step.py --rounds 3 --threads 2 \
        --loewe /path/to/Forward-Forward --dah33 /path/to/explore_forward_forward --cafo /path/to/CaFo

A step is the making of positive and negative inputs, the forward passes, the rule and the optimizer, on one batch of
random images in memory; no evaluation. Peers are measured where their checkout is given:

- github.com/loeweX/Forward-Forward at commit da516f0: Forward-Forward, 784-1000-1000-1000, batch 100, SGD with
  momentum, peer normalisation, and a linear classifier on top; see `peers/loewe.py`.
- github.com/dah33/explore_forward_forward at commit 55c5395: Forward-Forward and SymBa, 784-500-500, batch 4096, Adam,
  hard negatives from a scan of all classes at every step; see `peers/dah33.py`.
- github.com/Graph-ZKY/CaFo at commit b2cccf3: the predictor of Cascaded Forward by cross-entropy, full-batch steps on
  given features; and its three blocks with their predictors, the features included; see `peers/cafo.py`.

      git clone https://github.com/loeweX/Forward-Forward
      git -C Forward-Forward checkout da516f094c70a4a92042fbbc7ab33303aa7dbfd9
      git clone https://github.com/dah33/explore_forward_forward
      git -C explore_forward_forward checkout 55c5395d433e72dd7b9111c935d1c2105bc4fa20
      git clone https://github.com/Graph-ZKY/CaFo
      git -C CaFo checkout b2cccf3a93258bf115f2285f217c7135fcda6c79

  What stands in for parts of them is told in these files; nothing in theirs is changed. The loading of data is left
  out: the peers get their batch ready made (of loeweX with its wrong classes too, which its data set makes, while ours
  makes them in the step). Cases that end in "with its loader" have it: each side's own way to fetch a batch from images
  that are in memory, ours by indexing.

Ours has torch's fused optimizer (and channels_last for images). A peer that has an optimizer stands here twice: as it
is, and with the fused one put on from outside. All is measured in float32 and under bf16 autocast, peers as well; and
ours in bf16, as the recipes run, beside the peer as it is published, in float32.
Every side counts its trained parameters; unless they are equal nothing is compared.

The last cases are ours alone: each rule of the catalogue that trains the blocks of a sequence, stage by stage, beside
plain back-propagation on the same network, a perceptron 784-1000-1000-10 and the convolutions of Cascaded Forward on
3x32x32, by SGD with Nesterov's momentum. FF, SymBa and CaFo leave the output layer out. And the memory of rules whose
blocks free their graph before the next one runs: what is saved for backward does not grow with depth.

Operations. Rows `gigaflops` set the products that a step cannot do without, in the time it takes, beside a product of
two large matrices alone; the ratio is the share of that reached. With M_k the size of layer k's weight: a
layer's forward pass and its weight's gradient are one product each, 2 M_k operations a sample; no layer needs its
input's gradient. FF as loeweX: positive, negative and neutral pass, two gradients, and the classifier's two products.
Hard negatives: the classes' inputs differ by the label alone, so that one product of the first layer serves all; the
others are scanned for the wrong classes and run for the true one; then two gradients of each. The predictor: scores and
gradient, 2 N D C each.

Each side is a process of its own, and they take turns, as in `signals_step.py`. A peer's value is null without a
checkout, and where its step fails. Memory is counted tensor by tensor (`beyondprop.measure`), in float32 with the
switches off.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from _timing import Row, compare, environment, spread, write_results
from beyondprop.networks.classifiers import perceptron
from beyondprop.rules.local.forward_forward import ForwardForward
from beyondprop.rules.local.mono_forward import MonoForward
from beyondprop.rules.local.predsim import PredSim
from beyondprop.rules.signals.backprop import Backprop
from noprop_timed import Side
from signals_step import DRIVERS, KEEP_MEMORY, activation_bytes

OUT = Path(__file__).resolve().parent / "results" / "local_step.json"
PRECISIONS = ("float32", "bf16")
PLAIN, PRODUCT, LOADER = "plain", "product", "loader"
PEERS = {
    "loewe": "loeweX/Forward-Forward@da516f0",
    "dah33": "dah33/explore_forward_forward@55c5395",
    "cafo": "Graph-ZKY/CaFo@b2cccf3",
}
BP = "back-propagation by plain autograd"
CLASSES = 10
EPOCHS = 5  # of CaFo's predictors in a call
CALLS, TURN_SECONDS = 20, 0.5
LOADER_SECONDS = 2.0  # so that batches that workers made beforehand are few


@dataclass(frozen=True)
class Task:
    """A network and a batch.

    Attributes:
        name: For the case.
        kind: Of `--task` of `peers/local_ours.py`.
        image: Channels, height and width.
        batch: Images.
        hidden: Width of the hidden layers.
        depth: Hidden layers.
        network: `"perceptron"` or `"cascade"`.
        methods: Those measured; for `"rules"` none are named, and all are.
    """

    name: str
    kind: str
    image: tuple[int, int, int]
    batch: int
    hidden: int = 0
    depth: int = 0
    network: str = "perceptron"
    methods: tuple[str, ...] = ()


IMAGE, COLOUR = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class Size:
    """What is measured."""

    tasks: tuple[Task, ...] = (
        Task("784-1000-1000-1000", "loewe", IMAGE, 100, 1000, 3, methods=("ff",)),
        Task("784-1000-1000-1000", "loewe", IMAGE, 100, 1000, 3, methods=("ff loader",)),  # its workers apart
        Task("784-500-500", "dah33", IMAGE, 4096, 500, 2, methods=("ff", "symba", "ff loader", "symba loader")),
        Task("features of 3x32x32", "cafo", COLOUR, 2000, methods=("predictor",)),
        Task("3x32x32", "cafo", COLOUR, 500, methods=("blocks",)),
        Task("perceptron 784-1000-1000-10", "rules", IMAGE, 128, 1000, 2),
        Task("cascade 3x32x32", "rules", COLOUR, 128, network="cascade"),
    )
    product: int = 2048
    depths: tuple[int, ...] = (2, 4, 8, 16)
    depth_hidden: int = 512
    depth_batch: int = 128


Seconds = dict[tuple[str, str, str, str], list[float]]  # by side, method, precision and switches, one for each round


def commands(task: Task, size: Size, options: argparse.Namespace) -> dict[str, list[str]]:
    """What starts each side that there is, by name."""
    common = ["--image", *map(str, task.image), "--batch", str(task.batch), "--threads", str(options.threads)]
    common += ["--network", task.network, "--hidden", str(task.hidden), "--depth", str(task.depth)]
    common += ["--epochs", str(EPOCHS), "--product", str(size.product)]
    common += ["--methods", *task.methods] if task.methods else []
    start = ["env", *KEEP_MEMORY, sys.executable]
    found = {"ours": [*start, str(DRIVERS / "local_ours.py"), *common, "--task", task.kind]}
    if checkout := getattr(options, task.kind, None):
        driver = str(DRIVERS / f"{task.kind}.py")
        found[task.kind] = [*start, driver, *common, "--checkout", str(checkout.resolve())]
    return found


def plan(facts: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The turns of a round: each method of ours, next to its counterpart."""
    turns = []
    for precision in PRECISIONS:
        for method, about in facts["ours"]["methods"].items():
            if precision in about["precisions"]:
                turns.append(("ours", method, precision, "on"))
            for peer, found in facts.items():
                if peer != "ours" and precision in found["methods"].get(method, {}).get("precisions", ()):
                    turns += [(peer, method, precision, switches) for switches in switches_of(peer)]
    return turns


def switches_of(peer: str) -> tuple[str, ...]:
    """As it is, and with the fused optimizer; CaFo has none."""
    return ("off",) if peer == "cafo" else ("off", "on")


def take_turns(task: Task, size: Size, options: argparse.Namespace) -> tuple[Seconds, dict[str, Any]]:
    """Start all sides and let them take turns.

    Returns:
        The seconds, and each side's facts.
    """
    with contextlib.ExitStack() as stack:
        started = commands(task, size, options)
        sides = {name: stack.enter_context(Side(name, command)) for name, command in started.items()}
        facts = {name: side.answer() for name, side in sides.items()}
        check_parameters(facts)
        seconds: Seconds = {turn: [] for turn in plan(facts)}
        for _ in range(options.rounds):
            for turn, taken in seconds.items():
                side, method, *_ = turn
                limit = LOADER_SECONDS if method.endswith(LOADER) else TURN_SECONDS
                taken.append(sides[side].turn(" | ".join(turn[1:]), CALLS, limit))
    return seconds, facts


def check_parameters(facts: Mapping[str, Any]) -> None:
    """Refuse to compare networks of different sizes."""
    for peer in facts.keys() - {"ours"}:
        for method, about in facts[peer]["methods"].items():
            found, expected = (side["trained_parameters"] for side in (about, facts["ours"]["methods"][method]))
            if found != expected:
                raise SystemExit(f"{peer} trains {found} parameters by {method}, ours {expected}")


def rows(task: Task, size: Size, threads: int, seconds: Seconds, facts: Mapping[str, Any]) -> list[Row]:
    """Set each method beside its counterpart, and beside what the machine can do."""
    found = []

    def rate(*turn: str) -> float | None:
        taken = seconds.get(turn)  # type: ignore[call-overload]
        return work(task) / spread(taken)[1] if taken else None

    for method, mine in facts["ours"]["methods"].items():
        if method in (PLAIN, PRODUCT):
            continue
        fetched = ", with its loader" if method.endswith(LOADER) else ""
        case = f"{method.removesuffix(LOADER).rstrip()} step{fetched}, {task.name}, batch {task.batch}"
        if task.kind == "rules":
            beside = [(BP, "ours", PLAIN, "on", "")]
        else:
            notes = {"off": ", the peer as it is", "on": ", the peer fused"}
            beside = [(PEERS[task.kind], task.kind, method, on, notes[on]) for on in switches_of(task.kind)]
        metric = "steps_per_second" if task.kind == "cafo" else "images_per_second"
        for precision in PRECISIONS:
            if (ours := rate("ours", method, precision, "on")) is None:
                continue
            where = f"{case}, {threads} threads, {precision}"
            for peer, side, theirs, on, note in beside:
                other = rate(side, theirs, precision, on)
                found.append(compare(f"{where}{note}", metric, ours, peer, other, less_is_better=False))
            if precision != "float32" and task.kind != "rules":
                published = rate(task.kind, method, "float32", "off")
                where_published = f"{where}, the peer as published, in float32"
                found.append(compare(where_published, metric, ours, PEERS[task.kind], published, less_is_better=False))
            if (operations := least_operations(task, method)) and (most := seconds.get(product_turn(precision))):
                speed = operations / work(task) * ours / 1e9
                peak = 2 * size.product**3 / spread(most)[1] / 1e9
                found.append(
                    compare(where, "gigaflops", speed, "a product of two matrices", peak, less_is_better=False)
                )
        peer, side, theirs, *_ = beside[0]
        about = facts.get(side, {"methods": {}})["methods"].get(theirs, {})
        for name, value in mine.items() if not fetched else ():
            if name.endswith("bytes") and value:  # what saves nothing for backward has no such row
                found.append(compare(f"{case}, float32", name, value, peer, about.get(name), less_is_better=True))
    return found


def product_turn(precision: str) -> tuple[str, str, str, str]:
    """Of the product of two matrices."""
    return ("ours", PRODUCT, precision, "on")


def work(task: Task) -> int:
    """What a call does: images, or steps of CaFo's predictors."""
    return EPOCHS if task.kind == "cafo" else task.batch


def least_operations(task: Task, method: str) -> float:
    """Operations of the products that a call cannot do without; 0 where nobody has counted."""
    layers = [a * b for a, b in itertools.pairwise([math.prod(task.image), *[task.hidden] * task.depth])]
    if task.kind == "loewe":
        read = CLASSES * task.hidden * (task.depth - 1)
        return 2 * task.batch * (5 * sum(layers) + 2 * read)
    if task.kind == "dah33":
        return 2 * task.batch * (layers[0] + CLASSES * sum(layers[1:]) + 2 * sum(layers))
    if method == "predictor":
        _, height, width = task.image
        return EPOCHS * 4 * task.batch * CLASSES * 32 * (height // 2) * (width // 2)
    return 0


def depth_rows(size: Size) -> list[Row]:
    """Count the memory of rules with local losses at growing depth, beside that of back-propagation."""
    found = []
    for depth in size.depths:
        peak = {}
        rules = {"bp": Backprop, "ff": ForwardForward, "mono-forward": MonoForward, "predsim": PredSim}
        for name, rule in rules.items():
            network = perceptron((1, 28, 28), CLASSES, hidden=size.depth_hidden, depth=depth, activation="relu")
            x, y = torch.randn(size.depth_batch, 1, 28, 28), torch.randint(CLASSES, (size.depth_batch,))
            peak[name] = activation_bytes(rule.for_classifier(network, x, CLASSES), x, y)
        case = f"{depth} hidden layers of {size.depth_hidden}, batch {size.depth_batch}, float32"
        for name in list(rules)[1:]:
            for metric, value in peak[name].items():
                where, peer = f"{name} backward, {case}", "bp by the library, the same network"
                found.append(compare(where, metric, value, peer, peak["bp"][metric], less_is_better=True))
    return sorted(found, key=lambda row: row.case.split()[0])


def table(found: list[Row]) -> str:
    """Rows for reading."""
    lines = [f"{'ours':>10} {'peer':>10} {'ratio':>6}"]
    for row in found:
        unit = 1e-6 if row.metric.endswith("bytes") else 1
        theirs = "" if row.peer_value is None else f"{unit * row.peer_value:.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        metric = row.metric.replace("bytes", "MB")
        lines.append(f"{unit * row.ours:10.2f} {theirs:>10} {ratio:>6}  {metric}, {row.case} | {row.peer}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for each side (default 2)")
    for peer, name in PEERS.items():
        parser.add_argument(f"--{peer}", type=Path, help=f"a checkout of {name}")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    size, found = size or Size(), []
    for peer, name in PEERS.items():
        if getattr(options, peer) is None:
            print(f"{name} is left out: name a checkout by --{peer}")
    for task in size.tasks:
        seconds, facts = take_turns(task, size, options)
        found += rows(task, size, options.threads, seconds, facts)
        print(f"{task.name + ', ms':60} {'lowest':>9} {'median':>9} {'highest':>9}")
        for turn, taken in seconds.items():
            low, median, high = (1e3 * value for value in spread(taken))
            print(f"{', '.join(turn):60} {low:9.3f} {median:9.3f} {high:9.3f}", flush=True)
    found += depth_rows(size)
    print("", table(found), sep="\n")
    write_results(options.out, {**environment(torch.device("cpu")), "rounds": options.rounds}, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
