"""Block-parallel NoProp-DT on one and two processes, beside DistributedDataParallel back-propagation.

    python benchmarks/noprop_scaling.py --rounds 8

Every process has one thread. The network is the paper's ten blocks (arXiv 2503.24322, Figure 6) for images of MNIST's
shape, one-hot embedding, fused AdamW, channels_last; a step makes a shuffled batch from a set of random images, as a
training does, so that what two processes do twice is counted.

- Throughput: one process trains all ten blocks; two train five each on the same batches of 128. Each image passes the
  whole network once either way, so their rates compare. In float32 and under bf16 autocast.
- Beside it back-propagation through the same blocks (`ResidualChain`) in float32: one process with a batch of 128, and
  two under DistributedDataParallel on gloo with 128 each, a global batch of 256.
- Bytes: what a process hands to the others in a step, counted where it is handed over.
- Stalls: ten processes, one tiny block each, that sleep half a second before one step in ten, at random. The time
  until the last has finished stands beside that of the slowest alone, and beside DistributedDataParallel with the same
  sleeps. There is next to no computation in it, so that ten processes need no ten cores.

All processes are started first and wait for their turn without using a processor; rounds are interleaved.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
import torch._dynamo  # every optimizer imports it; once, before the processes part
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from _timing import Row, compare, environment, spread, write_results
from beyondprop.data import Batches, image_set
from beyondprop.networks.noprop import ResidualChain, denoising_blocks
from beyondprop.parallel import Place, Share
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropDT
from beyondprop.training.evaluation import autocast

OUT = Path(__file__).resolve().parent / "results" / "noprop_scaling.json"
IMAGE, CLASSES = (1, 28, 28), 10
CPU = torch.device("cpu")
STALL_SHARE, STALL_RANKS = 0.1, 10
BYTES = "sent_bytes_per_step_and_process"


@dataclass(frozen=True)
class Size:
    """Of the task; the defaults are the paper's."""

    blocks: int = 10
    batch: int = 128
    widths: tuple[int, int, int] = (32, 64, 128)
    hidden: int = 256
    images: int = 4096
    stall_seconds: float = 0.5
    stall_steps: int = 60


TINY = Size(blocks=STALL_RANKS, batch=4, widths=(2, 2, 2), hidden=4, images=64)


class Worker:
    """One process's training: `step` takes one, `sent` counts what it has handed to the others."""

    sent = 0

    def step(self, precision: str) -> None:
        """Train on the next batch."""
        raise NotImplementedError


class BlockParallel(Worker):
    """NoProp, this process's blocks."""

    def __init__(self, size: Size, place: Place, *, learned: bool = False) -> None:
        torch.manual_seed(0)
        embedding = ClassEmbedding.orthogonal(CLASSES, 20) if learned else ClassEmbedding.one_hot(CLASSES)
        rule = NoPropDT(blocks(size, embedding), embedding).to(memory_format=torch.channels_last)
        self.share = Share(rule, place)
        self.optimizer = AdamW(rule.parameter_groups(), lr=1e-3, weight_decay=1e-3, fused=True)
        self.batches = endless(size, seed=0)
        if not learned and dist.is_initialized():
            raise SystemExit("a process group exists where nothing is to be sent")

    def step(self, precision: str) -> None:
        """Train the own blocks."""
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        with autocast(CPU, precision):
            self.share.backward(x, y)
        self.optimizer.step()
        self.sent = self.share.sent_bytes


class DataParallel(Worker):
    """Back-propagation through the same blocks, on this process's own images."""

    def __init__(self, size: Size, place: Place) -> None:
        torch.manual_seed(0)
        embedding = ClassEmbedding.one_hot(CLASSES)
        network: nn.Module = ResidualChain(blocks(size, embedding), embedding).to(memory_format=torch.channels_last)
        if place.ranks > 1:
            network = DistributedDataParallel(network)
            network.register_comm_hook(None, self._count)
        self.network = network
        self.optimizer = AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3, fused=True)
        self.batches = endless(size, seed=place.rank)

    def step(self, precision: str) -> None:
        """Train the whole network."""
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        with autocast(CPU, precision):
            F.cross_entropy(self.network(x), y).backward()
        self.optimizer.step()

    def _count(self, _state, bucket):  # type: ignore[no-untyped-def]  # it refuses annotations that are strings
        """As DistributedDataParallel averages by itself, and count."""
        self.sent += bucket.buffer().nbytes
        buffer = bucket.buffer().div_(dist.get_world_size())
        work = dist.all_reduce(buffer, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])


def blocks(size: Size, embedding: ClassEmbedding) -> nn.ModuleList:
    """Make the paper's blocks."""
    return denoising_blocks(size.blocks, IMAGE, embedding, widths=size.widths, hidden=size.hidden)


def endless(size: Size, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch of random images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size.images, *IMAGE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (size.images,), generator=generator)
    batches = Batches(
        image_set(images, labels), size.batch, shuffle=True, seed=seed, channels_last=True, drop_last=True
    )
    return itertools.chain.from_iterable(iter(batches) for _ in itertools.count())


class Run(NamedTuple):
    """What a team's steps took.

    Attributes:
        seconds: Until the last process had finished.
        busy: Processor time of the busiest process: the seconds, were the machine its own.
        sent: Bytes that a process has sent since it was started, the largest.
    """

    seconds: float
    busy: float
    sent: int


class Team:
    """Processes that wait for commands.

    Args:
        make: Makes the worker of a place, in its process.
        ranks: How many.
        folder: Where those that need a process group find each other; None for those that need none.
        stalls: Seconds to sleep before each step, for each process.
    """

    def __init__(
        self,
        make: Callable[[Place], Worker],
        ranks: int,
        folder: Path | None = None,
        stalls: Sequence[Sequence[float]] | None = None,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self.ranks, self.ends, self.processes = ranks, [], []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            place = Place(rank=rank, ranks=ranks)
            process = context.Process(
                target=_serve, args=(theirs, make, place, folder, stalls[rank] if stalls else None), daemon=True
            )
            process.start()
            theirs.close()  # so that a process that dies ends the conversation
            self.ends.append(ours)
            self.processes.append(process)
        for end in self.ends:
            end.recv()

    def run(self, steps: int, precision: str = "float32", only: int | None = None) -> Run:
        """Take steps, all processes at once or one alone."""
        chosen = self.ends if only is None else [self.ends[only]]
        start = time.perf_counter()
        for end in chosen:
            end.send((steps, precision))
        sent, busy = zip(*(end.recv() for end in chosen), strict=True)
        return Run(time.perf_counter() - start, max(busy), max(sent))

    def close(self) -> None:
        """End the processes."""
        for end in self.ends:
            end.send(None)
        for process in self.processes:
            process.join()


def _serve(
    end: Connection, make: Callable[[Place], Worker], place: Place, folder: Path | None, stalls: Sequence[float] | None
) -> None:
    torch.set_num_threads(1)
    if folder is not None:
        dist.init_process_group("gloo", init_method=f"file://{folder}", rank=place.rank, world_size=place.ranks)
    worker = make(place)
    end.send(None)
    while (command := end.recv()) is not None:
        steps, precision = command
        start = time.process_time()
        for stall in itertools.islice(stalls or itertools.repeat(0.0), steps):
            if stall:
                time.sleep(stall)
            worker.step(precision)
        end.send((worker.sent, time.process_time() - start))
    if folder is not None:
        dist.destroy_process_group()


def throughput(size: Size, rounds: int, steps: int, scratch: Path) -> tuple[list[Row], list[str]]:
    """Measure one and two processes, interleaved.

    Returns:
        The rows of the result file, and lines to be read.
    """
    one = Team(lambda place: BlockParallel(size, place), 1)
    two = Team(lambda place: BlockParallel(size, place), 2)
    bp = Team(lambda place: DataParallel(size, place), 1)
    ddp = Team(lambda place: DataParallel(size, place), 2, scratch / "ddp")
    cases = {
        "NoProp, 1 process, float32": (one, "float32", 1),
        "NoProp, 2 processes, float32": (two, "float32", 1),
        "NoProp, 1 process, bf16": (one, "bf16", 1),
        "NoProp, 2 processes, bf16": (two, "bf16", 1),
        "back-propagation, 1 process, float32": (bp, "float32", 1),
        "DistributedDataParallel, 2 processes, float32": (ddp, "float32", 2),
    }
    runs: dict[str, list[Run]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, (team, precision, _) in cases.items():
            runs[name].append(team.run(steps, precision))
    per_step = {name: taken[-1].sent // ((rounds + 1) * steps) for name, taken in runs.items()}
    counted = {name: taken[1:] for name, taken in runs.items()}  # the first is to warm up
    for team in (one, two, bp, ddp):
        team.close()
    images = {name: steps * size.batch * factor for name, (_, _, factor) in cases.items()}
    rate = {name: images[name] / statistics.median(run.seconds for run in taken) for name, taken in counted.items()}
    lines = [f"{'images/s':48} {'lowest':>9} {'median':>9} {'highest':>9} {'by processor time':>18}"]
    for name, taken in counted.items():
        fast, middle, slow = (images[name] / value for value in spread([run.seconds for run in taken]))
        alone = images[name] / statistics.median(run.busy for run in taken)
        lines.append(f"{name:48} {slow:9.1f} {middle:9.1f} {fast:9.1f} {alone:18.1f}")
    learned = Team(lambda place: BlockParallel(size, place, learned=True), 2, scratch / "learned")
    per_step["learned"] = learned.run(2).sent // 2
    learned.close()
    return rows(size, rate, per_step), lines


def rows(size: Size, rate: dict[str, float], sent: dict[str, int]) -> list[Row]:
    """Set the rates and bytes beside each other."""
    task = f"MNIST shape, T={size.blocks}, batch {size.batch}, one thread a process"
    ddp = f"back-propagation under DistributedDataParallel (gloo), 2 processes, global batch {2 * size.batch}"
    found = []
    for precision in ("float32", "bf16"):
        single, double = (rate[f"NoProp, {count}, {precision}"] for count in ("1 process", "2 processes"))
        case = f"{task}, 2 processes, {precision}"
        found.append(compare(case, "images_per_second", double, "1 process", single, less_is_better=False))
    bp_one = rate["back-propagation, 1 process, float32"]
    bp_two = rate["DistributedDataParallel, 2 processes, float32"]
    one, two = rate["NoProp, 1 process, float32"], rate["NoProp, 2 processes, float32"]
    theirs, fixed = sent["DistributedDataParallel, 2 processes, float32"], sent["NoProp, 2 processes, float32"]
    single, double = f"{task}, 1 process, float32", f"{task}, 2 processes, float32"
    alone = "back-propagation, 1 process"
    return [
        *found,
        compare(single, "images_per_second", one, alone, bp_one, less_is_better=False),
        compare(double, "images_per_second", two, ddp, bp_two, less_is_better=False),
        compare(double, "gain_of_the_second_process", two / one, ddp, bp_two / bp_one, less_is_better=False),
        Row(f"{double}, fixed embedding", BYTES, fixed, ddp, theirs, None),  # nothing: there is no ratio to it
        compare(f"{double}, learned embedding", BYTES, sent["learned"], ddp, theirs, less_is_better=True),
    ]


def stalled(size: Size, scratch: Path) -> list[Row]:
    """Let ten processes stall at random."""
    chance = random.Random(0)
    stalls = [
        [size.stall_seconds * (chance.random() < STALL_SHARE) for _ in range(size.stall_steps)]
        for _ in range(STALL_RANKS)
    ]
    slowest = max(range(STALL_RANKS), key=lambda rank: sum(stalls[rank]))
    ours = Team(lambda place: BlockParallel(TINY, place), STALL_RANKS, stalls=stalls)
    alone = ours.run(size.stall_steps, only=slowest).seconds
    together = ours.run(size.stall_steps).seconds
    ours.close()
    ddp = Team(lambda place: DataParallel(TINY, place), STALL_RANKS, scratch / "stalled", stalls=stalls)
    in_step = ddp.run(size.stall_steps).seconds
    ddp.close()
    sleeps = f"a sleep of {size.stall_seconds} s before {STALL_SHARE:.0%} of them"
    case = f"{STALL_RANKS} processes, one tiny block each, {size.stall_steps} steps, {sleeps}"
    peer = "back-propagation under DistributedDataParallel (gloo) with the same sleeps"
    return [
        compare(case, "seconds", together, "the slowest process alone", alone, less_is_better=True),
        compare(case, "seconds", together, peer, in_step, less_is_better=True),
    ]


def table(found: list[Row]) -> str:
    """Rows for reading."""
    lines = [f"{'metric':33} {'ours':>12} {'peer':>12} {'ratio':>7}  case | peer"]
    for row in found:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(
            f"{row.metric:33} {row.ours:12.2f} {row.peer_value or 0:12.2f} {ratio:>7}  {row.case} | {row.peer}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="rounds that count (default 8); one before them does not")
    parser.add_argument("--steps", type=int, default=5, help="steps of each side in a round (default 5)")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    torch.set_num_threads(1)
    size = size or Size()
    with tempfile.TemporaryDirectory() as scratch:
        stalls = stalled(size, Path(scratch))
        rates, lines = throughput(size, options.rounds, options.steps, Path(scratch))
    where = {**environment(CPU), "rounds": options.rounds, "steps": options.steps}
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    print("\n".join(lines), table([*rates, *stalls]), sep="\n\n")
    write_results(options.out, where, [*rates, *stalls])
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
