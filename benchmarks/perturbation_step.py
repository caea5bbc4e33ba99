"""Speed and memory of a step of the perturbative rules, beside public peers.

    python benchmarks/perturbation_step.py --rounds 5 --threads 2 --fwdgrad FWDGRAD --np-rnns NP_RNNS

A step is one random direction, the forward pass with tangents, the rule and SGD, on one batch of random images in
memory; no evaluation. Every case is a function below, and writes its own rows of the result file: those of cases that
are not run now (`--cases`) stay as they are.

- `forward gradient`: github.com/orobix/fwdgrad, its perceptron 784-1024-1024-10; see `peers/fwdgrad.py`. It moves the
  weights; our step that moves the activities is set beside the same one. The peer stands here as it is, and with
  torch's fused optimizer, which ours has. All is measured in float32 and under bf16 autocast, the peer as well; and
  ours in bf16 beside the peer as it is published, in float32.
- `local losses`: LocalMixer M/1/16 and M/8/16, where no public code runs beside torch: beside local and greedy
  back-propagation by the library, and, rows `forward_passes`, how many forward passes alone a step takes.
- `multiplexed`: multiplexed gradient descent beside a plain loop, see `multiplexed_step.py`.
- `recurrent`: activity-based node perturbation beside the authors' code, see `recurrent_step.py`.

In the first two, each side is a process of its own, and they take turns, as in `local_step.py`. A peer's value is null
without a checkout. Memory is counted tensor by tensor, in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from _timing import Row, compare, environment, spread, write_results
from local_step import PRECISIONS, check_parameters, table
from multiplexed_step import MultiplexedSize
from multiplexed_step import rows as multiplexed_rows
from noprop_timed import Side
from recurrent_step import PEER as NP_RNNS
from recurrent_step import RecurrentSize
from recurrent_step import rows as recurrent_rows
from signals_step import DRIVERS, KEEP_MEMORY

OUT = Path(__file__).resolve().parent / "results" / "perturbation_step.json"
PEERS = {"fwdgrad": "orobix/fwdgrad@300af55", "np-rnns": NP_RNNS}
FORWARD = "forward pass"
CALLS, TURN_SECONDS = 20, 0.5


@dataclass(frozen=True)
class Network:
    """A LocalMixer and its images.

    Attributes:
        name: For the case.
        image: Channels, height and width.
        channels: Of the features.
        mixer: Blocks, patches on a side, groups.
    """

    name: str
    image: tuple[int, int, int]
    channels: int
    mixer: tuple[int, int, int]


@dataclass(frozen=True)
class Size:
    """What is measured."""

    image: tuple[int, int, int] = (1, 28, 28)
    hidden: int = 1024
    batches: tuple[int, ...] = (64, 1024)
    networks: tuple[Network, ...] = (
        Network("LocalMixer M/1/16", (1, 28, 28), 512, (1, 1, 16)),
        Network("LocalMixer M/8/16", (3, 32, 32), 512, (4, 8, 16)),
    )
    mixer_batch: int = 100
    multiplexed: MultiplexedSize = field(default_factory=MultiplexedSize)
    recurrent: RecurrentSize = field(default_factory=RecurrentSize)


Turn = tuple[str, str, str, str]  # side, method, precision, switches
Seconds = dict[Turn, list[float]]


def forward_gradient(size: Size, options: argparse.Namespace) -> list[Row]:
    """ForwardGradient beside fwdgrad."""
    found = []
    for batch in size.batches:
        common = arguments(size.image, size.hidden, batch, options)
        sides = {"ours": driver("perturbation_ours", [*common, "--task", "fwdgrad"])}
        if options.fwdgrad:
            sides["fwdgrad"] = driver("fwdgrad", [*common, "--checkout", str(options.fwdgrad.resolve())])
        seconds, facts = take_turns(sides, options.rounds)

        def rate(*turn: str, seconds: Seconds = seconds, batch: int = batch) -> float | None:
            return batch / spread(seconds[turn])[1] if turn in seconds else None  # type: ignore[index]

        for method in ("weights", "activities"):
            case = f"{method} step, perceptron 784-{size.hidden}-{size.hidden}-10, batch {batch}"
            for precision in PRECISIONS:
                ours = rate("ours", method, precision, "on")
                assert ours is not None
                where = f"{case}, {options.threads} threads, {precision}"
                beside = [(", the peer as it is", precision, "off"), (", the peer fused", precision, "on")]
                if precision != "float32":
                    beside.append((", the peer as published, in float32", "float32", "off"))
                for note, theirs, switches in beside:
                    other = rate("fwdgrad", "weights", theirs, switches)
                    peer = PEERS["fwdgrad"]
                    found.append(compare(where + note, "images_per_second", ours, peer, other, less_is_better=False))
                found.append(passes(where, ours, rate("ours", FORWARD, precision, "on")))
            mine = facts["ours"]["methods"][method]
            theirs = facts.get("fwdgrad", {"methods": {}})["methods"].get("weights", {})
            name, peer = "peak_memory_bytes", PEERS["fwdgrad"]
            found.append(compare(f"{case}, float32", name, mine[name], peer, theirs.get(name), less_is_better=True))
    return found


def local_losses(size: Size, options: argparse.Namespace) -> list[Row]:
    """LocalForwardGradient beside back-propagation of the same local losses."""
    found, peer = [], "lg-bp by the library, the same network"
    for network in size.networks:
        common = arguments(network.image, network.channels, size.mixer_batch, options)
        mixer = ["--task", "mixer", "--mixer", *map(str, network.mixer)]
        seconds, facts = take_turns({"ours": driver("perturbation_ours", [*common, *mixer])}, options.rounds)
        methods = facts["ours"]["methods"]
        for method in ("lg-fg-a", "lg-fg-w"):
            case = f"{method} step, {network.name}, batch {size.mixer_batch}"
            for precision in PRECISIONS:
                ours, other, alone = (
                    size.mixer_batch / spread(seconds["ours", name, precision, "on"])[1]
                    for name in (method, "lg-bp", FORWARD)
                )
                where = f"{case}, {options.threads} threads, {precision}"
                found.append(compare(where, "images_per_second", ours, peer, other, less_is_better=False))
                found.append(passes(where, ours, alone))
            for name in ("peak_memory_bytes", "peak_saved_for_backward_bytes"):
                mine, theirs = methods[method][name], methods["lg-bp"][name]
                row = Row(f"{case}, float32", name, mine, peer, theirs, theirs / mine if mine else None)
                found.append(row)
    return found


CASES: dict[str, Callable[[Size, argparse.Namespace], list[Row]]] = {
    "forward gradient": forward_gradient,
    "local losses": local_losses,
    "multiplexed": lambda size, options: multiplexed_rows(size.multiplexed, options.rounds),
    "recurrent": lambda size, options: recurrent_rows(size.recurrent, options.np_rnns, options.rounds),
}


def passes(where: str, ours: float, alone: float | None) -> Row:
    """How many forward passes alone a step takes; the ratio is the share of the time that one of them is."""
    assert alone is not None
    return Row(where, "forward_passes", alone / ours, "a forward pass alone", 1.0, ours / alone)


def arguments(image: tuple[int, int, int], hidden: int, batch: int, options: argparse.Namespace) -> list[str]:
    """The command line that all sides have."""
    sizes = ["--image", *map(str, image), "--batch", str(batch), "--hidden", str(hidden)]
    return [*sizes, "--threads", str(options.threads)]


def driver(name: str, options: list[str]) -> list[str]:
    """What starts a side."""
    return ["env", *KEEP_MEMORY, sys.executable, str(DRIVERS / f"{name}.py"), *options]


def take_turns(started: Mapping[str, list[str]], rounds: int) -> tuple[Seconds, dict[str, Any]]:
    """Start all sides and let them take turns, each method in each precision, the fused optimizer off (peers) and on.

    Returns:
        The seconds of each round, and each side's facts.
    """
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(Side(name, command)) for name, command in started.items()}
        facts = {name: side.answer() for name, side in sides.items()}
        check_parameters(facts)
        seconds: Seconds = {
            (side, method, precision, switches): []
            for precision in PRECISIONS
            for side, about in facts.items()
            for method, known in about["methods"].items()
            if precision in known["precisions"]
            for switches in (("on",) if side == "ours" else ("off", "on"))
        }
        for _ in range(rounds):
            for turn, taken in seconds.items():
                taken.append(sides[turn[0]].turn(" | ".join(turn[1:]), CALLS, TURN_SECONDS))
    for turn, taken in seconds.items():
        low, median, high = (1e3 * value for value in spread(taken))
        print(f"{', '.join(turn):50} {low:9.3f} {median:9.3f} {high:9.3f} ms", flush=True)
    return seconds, facts


def kept(path: Path, cases: list[str]) -> list[Row]:
    """The rows of other cases that the result file holds."""
    rows = [Row(**row) for row in json.loads(path.read_bytes())["rows"]] if path.exists() else []
    return [row for row in rows if row.case.partition(": ")[0] not in cases]


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for each side (default 2)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="those to measure (default all)")
    for peer, name in PEERS.items():
        parser.add_argument(f"--{peer}", type=Path, help=f"a checkout of {name}")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    found = kept(options.out, options.cases)
    for case in options.cases:
        rows = CASES[case](size or Size(), options)
        found += [Row(f"{case}: {row.case}", *list(vars(row).values())[1:]) for row in rows]
    print("", table(found), sep="\n")
    write_results(options.out, {**environment(torch.device("cpu")), "rounds": options.rounds}, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
