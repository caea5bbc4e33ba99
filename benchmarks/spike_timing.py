"""Speed of spiking layers by exact timing beside surrogate gradients of other libraries, and whose gradients are right.

    python benchmarks/spike_timing.py --threads 1 --peers snntorch norse spikingjelly exactsnn

An epoch is 60,000 images in batches of 128 through 784-400-10, timed as single steps: forward, loss, backward, Adam.
Ours encodes each pixel above a tenth by the moment of one spike, with one spike a neuron (a row) and with up to four (a
row); the images are the first of MNIST. Peers simulate T = 25 steps with leaky neurons (their own defaults), the image
as a constant input current, and cross-entropy on summed output spikes. Sides take turns, round by round, in one
process; figures are medians. Peers that are not installed are left out:

    pip install --no-deps snntorch norse nir nirtorch h5py spikingjelly loguru exact-snn-nn

"Memory": what autograd keeps between forward and backward, for a window of input spikes ten times as long on our side
and ten times as many steps on the peers', as a multiple of the short one's: 1 is independent of simulated time.

"Gradient": the relative error of d(sum of spike times)/dw against finite differences, in float64, for the first 1, 2
and 5 spikes of a neuron; the peer is exact-snn-nn, the public package for several exact spikes a neuron.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop import FirstSpike, FirstSpikeLoss, LatencyEncoder, SpikingLinear, data
from beyondprop.layers.spiking import sweep
from peers import spiking

OUT = Path(__file__).resolve().parent / "results" / "spike_timing.json"
CPU = torch.device("cpu")
BATCH, STEPS, IMAGES = 128, 25, 60_000


def ours(hidden: int, spikes: int, window: float = 1.0) -> nn.Sequential:
    """Our network."""
    torch.manual_seed(0)
    return nn.Sequential(
        LatencyEncoder(window, silent=0.1),
        SpikingLinear(784, hidden, spikes=spikes, active=0.15, drive=3.0),
        SpikingLinear(hidden, 10, drive=3.0, active=0.5, lift=0.5),
        FirstSpike(0.2),
    )


def stepping(network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step of training, to be called."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()

    return step


def kept_bytes(network: nn.Module, x: Tensor) -> int:
    """Count what autograd keeps for the way back, each storage once.

    Of ours the sorted input spikes come on top: one moment and one index a spike, however long they take to come.
    """
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scores = network(x)
    del scores
    return sum(seen.values())


def speed(names: list[str], rounds: int, hidden: int, threads: int) -> list[Row]:
    """Time a step of all sides."""
    images = data.load("mnist").train
    x, y = images.images[:BATCH].flatten(1).float() / 255, images.labels[:BATCH]
    calls: dict[str, Callable[[], object]] = {}
    for spikes in (1, 4):
        calls[f"{spikes} spikes"] = stepping(ours(hidden, spikes), FirstSpikeLoss(), x, y)
    for name in names:
        calls[name] = stepping(spiking.NETWORKS[name](hidden, STEPS), F.cross_entropy, x, y)
    median = {key: spread(taken)[1] for key, taken in interleave(calls, rounds, 2, CPU).items()}
    batches = -(-IMAGES // BATCH)
    path = "compiled" if sweep.kernels(x) is not None else "tensors"
    found = []
    for spikes in (1, 4):
        for name in names or [""]:
            case = (
                f"784-{hidden}-10, batch {BATCH}, up to {spikes} spikes ({path}), peer T = {STEPS}, {threads} threads"
            )
            theirs = median[name] * batches if name else None
            mine = median[f"{spikes} spikes"] * batches
            found.append(compare(case, "seconds an epoch", mine, name or "none", theirs, less_is_better=True))
    return found


def memory(names: list[str], hidden: int) -> list[Row]:
    """How what is kept grows with simulated time."""
    x = data.load("mnist").train.images[:BATCH].flatten(1).float() / 255
    mine = kept_bytes(ours(hidden, 1, 10.0), x) / kept_bytes(ours(hidden, 1, 1.0), x)
    found = []
    for name in names or [""]:
        network: Any = spiking.NETWORKS.get(name)
        theirs = kept_bytes(network(hidden, 10 * STEPS), x) / kept_bytes(network(hidden, STEPS), x) if name else None
        case = f"784-{hidden}-10, ten times the simulated time"
        found.append(compare(case, "memory, as a multiple", mine, name or "none", theirs, less_is_better=True))
    return found


def gradients(with_peer: bool) -> list[Row]:
    """Relative errors of gradients of the first spikes."""
    found = []
    for spikes in (1, 2, 5):
        torch.manual_seed(3)
        times = 2 * torch.rand(1, 8, dtype=torch.float64)
        layer = SpikingLinear(8, 1, spikes=spikes, drive=9.0).double()

        def total(weight: Tensor, layer: SpikingLinear = layer, times: Tensor = times) -> Tensor:
            return torch.func.functional_call(layer, {"weight": weight}, (times,)).sum()

        mine = relative_error(total, layer.weight.detach())
        theirs = None
        if with_peer:
            theirs = spiking.exact_error(times, layer.weight.detach(), layer.membrane, spikes, relative_error)
        case = f"gradient of the first {spikes} spikes by weights"
        found.append(compare(case, "relative error", mine, "exactsnn", theirs, less_is_better=True))
    return found


def relative_error(total: Callable[[Tensor], Tensor], weight: Tensor) -> float:
    """Of the gradient of a function of weights, against central differences of fourth order."""
    free = weight.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(free), free)
    expected, h = torch.zeros_like(weight), 1e-4
    for k in range(weight.numel()):
        for steps, factor in ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12)):
            moved = weight.clone()
            moved.view(-1)[k] += steps * h
            with torch.no_grad():
                expected.view(-1)[k] += factor * total(moved) / h
    error = float((gradient - expected).norm() / expected.norm())
    return error if math.isfinite(error) else math.inf


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each side (default 15)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default 1)")
    parser.add_argument("--hidden", type=int, default=400, help="width of the hidden layer (default 400)")
    parser.add_argument(
        "--peers", nargs="*", default=[], choices=[*spiking.NETWORKS, "exactsnn"], help="to stand beside"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads, options.hidden) < 1:
        parser.error("--rounds, --threads and --hidden must be at least 1")
    for name in options.peers:
        if importlib.util.find_spec(spiking.MODULES[name]) is None:
            parser.error(f"{name} is not installed: leave it out, or install it as the head of this file says")
    torch.set_num_threads(options.threads)
    names = [name for name in options.peers if name != "exactsnn"]
    found = speed(names, options.rounds, options.hidden, options.threads)
    found += memory(names, options.hidden) + gradients("exactsnn" in options.peers)
    for row in found:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        print(f"{row.ours:10.4g} {row.peer_value or math.nan:10.4g} {ratio:>8}  {row.case} | {row.metric} | {row.peer}")
    write_results(options.out, {**environment(CPU), "rounds": options.rounds}, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
