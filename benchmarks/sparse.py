"""Speed and memory of sparse layers beside dense ones, the authors' package, torch's CSR tensors and Numba.

    python benchmarks/sparse.py --threads 1 2 --rounds 11

Linear layers of 768 to 3072 at batch 902 and of 512 to 256 at batch 128; convolutions of 3x3 of 128 to 256 channels on
7x7 pixels (batch 32), 64 to 64 on 56x56 (16), 256 to 256 on 14x14 (16) and 64 to 128 on 16x16 by steps of two (64);
each at 50 to 99 % of its weights gone, at random. Forward is a call of the layer, backward that of autograd with a
gradient of random numbers, for the input, the weights and the bias (which CSR has none of). All sides see the same
weights and inputs, and take turns, round by round; figures are medians. Before anything is timed, outputs and gradients
of ours are compared with the dense layer's. Of the authors' two forms of a convolution the faster one of each row
counts.

A ResNet-18 for images of CIFAR's size, 95 % of its inner convolutions gone, does a whole step (forward, backward, SGD
with momentum), with the layers that `sparsify`, and the authors' own function, find faster than dense ones.

Ceilings are measured beside: multiplications of large dense matrices, and copying. The gradients of the input and of
the weights are also timed one without the other, and a step of the layer with no weight left, which is what moving
activations into the kernels' order and back costs, and calls. Memory is the most bytes of all
tensors that are alive at any one time of a step, and what the kernels keep for themselves.

`peers/sparse_layers.py` says what stands beside and how it is installed; what is not installed has no rows.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop.layers.sparse import SparseLayer, instruction_set, prune, sparsify
from beyondprop.layers.sparse.library import scratch_bytes
from beyondprop.layers.sparse.pruning import prunable_layers, sparse_form
from beyondprop.measure.memory import peak_live_bytes
from beyondprop.networks.resnet import resnet18
from peers.sparse_layers import PEER, CSRLinear, authors_forms, authors_network, has, numba_forward

OUT = Path(__file__).resolve().parent / "results" / "sparse.json"
CPU = torch.device("cpu")
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Task:
    """A layer and the shape of its input."""

    name: str
    make: Callable[[], nn.Linear | nn.Conv2d]
    shape: tuple[int, ...]


TASKS = (
    Task("linear 768 to 3072, batch 902", lambda: nn.Linear(768, 3072), (902, 768)),
    Task("linear 512 to 256, batch 128", lambda: nn.Linear(512, 256), (128, 512)),
    Task("conv 128 to 256, 7x7, batch 32", lambda: nn.Conv2d(128, 256, 3, padding=1), (32, 128, 7, 7)),
    Task("conv 64 to 64, 56x56, batch 16", lambda: nn.Conv2d(64, 64, 3, padding=1), (16, 64, 56, 56)),
    Task("conv 256 to 256, 14x14, batch 16", lambda: nn.Conv2d(256, 256, 3, padding=1), (16, 256, 14, 14)),
    Task("conv 64 to 128, 16x16 by two, batch 64", lambda: nn.Conv2d(64, 128, 3, 2, 1), (64, 64, 16, 16)),
)


class Pass:
    """Forward and backward of one layer, apart: each backward goes through the graph of the forward before it."""

    def __init__(self, layer: nn.Module, x: Tensor, gradient: Tensor, *, wants_input: bool = True) -> None:
        self.layer, self.x, self.gradient = layer, x.clone().requires_grad_(wants_input), gradient

    def forward(self) -> Tensor:
        """Call the layer."""
        self.out: Tensor = self.layer(self.x)
        return self.out

    def backward(self) -> None:
        """Differentiate with respect to input and parameters."""
        self.x.grad = None
        self.layer.zero_grad()
        self.out.backward(self.gradient)


def check_equal(ours: SparseLayer, dense: nn.Module, x: Tensor, gradient: Tensor) -> None:
    """Refuse to time what is not the same."""
    one, other = Pass(ours, x, gradient), Pass(dense, x, gradient)
    outputs = (one.forward(), other.forward())
    one.backward()
    other.backward()
    weight = other.layer.weight.grad
    assert isinstance(weight, Tensor)
    for found, expected in (outputs, (one.x.grad, other.x.grad), (ours.weight.grad, weight[ours.mask])):
        assert found is not None
        assert expected is not None
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


def layer_rows(task: Task, sparsity: float, rounds: int) -> Iterator[Row]:
    """Time one layer at one sparsity."""
    torch.manual_seed(0)
    dense = task.make()
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) >= sparsity)
    x = torch.randn(task.shape)
    gradient = torch.randn_like(dense(x))
    ours = sparse_form(dense)
    ours.kernels_from = 0.0
    check_equal(ours, dense, x, gradient)
    sides: dict[str, nn.Module] = {"ours": ours, "dense": dense}
    if has(PEER):
        sides |= {f"{PEER} {form}".strip(): layer for form, layer in authors_forms(dense).items()}
    if isinstance(dense, nn.Linear):
        sides["torch CSR"] = CSRLinear(dense)
    passes = {name: Pass(layer, x, gradient) for name, layer in sides.items()}
    steps = {(name, way): getattr(one, way) for name, one in passes.items() for way in ("forward", "backward")}
    spent = interleave({" ".join(key): step for key, step in steps.items()}, rounds, 2, CPU)
    medians = {key: 1e3 * spread(spent[" ".join(key)])[1] for key in steps}
    times = {name: (medians[name, "forward"], medians[name, "backward"]) for name in sides}
    case = f"{task.name}, {sparsity:.0%} gone, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    best = {name.split(" ")[0] if name.startswith(PEER) else name: t for name, t in times.items() if name != "ours"}
    for name, t in times.items():  # of the authors' forms the faster
        if name.startswith(PEER) and sum(t) < sum(best[PEER]):
            best[PEER] = t
    mine = times["ours"]
    for peer, theirs in best.items():
        yield compare(case, "forward_ms", mine[0], peer, theirs[0], less_is_better=True)
        yield compare(case, "backward_ms", mine[1], peer, theirs[1], less_is_better=True)
        yield compare(case, "step_ms", sum(mine), peer, sum(theirs), less_is_better=True)
    alone, empty = kernel_times(ours, x, gradient, rounds)
    yield from efficiency_rows(case, ours, x, gradient, {"forward": mine[0], "backward": mine[1], **alone})
    yield compare(case, "empty_step_ms", empty, "with its weights", sum(mine), less_is_better=True)


def kernel_times(layer: SparseLayer, x: Tensor, gradient: Tensor, rounds: int) -> tuple[dict[str, float], float]:
    """Milliseconds of both gradients, each without the other; and of a step of the layer without any weight."""
    frozen, empty = copy.deepcopy(layer).requires_grad_(requires_grad=False), copy.deepcopy(layer)
    empty.change_mask(torch.zeros_like(layer.mask))
    passes = {
        "input_gradient": Pass(frozen, x, gradient),
        "weight_gradient": Pass(layer, x, gradient, wants_input=False),
        "empty": Pass(empty, x, gradient),
    }
    steps = {(name, way): getattr(one, way) for name, one in passes.items() for way in ("forward", "backward")}
    spent = interleave({" ".join(key): step for key, step in steps.items()}, rounds, 2, CPU)
    medians = {key: 1e3 * spread(spent[" ".join(key)])[1] for key in steps}
    alone = {name: medians[name, "backward"] for name in ("input_gradient", "weight_gradient")}
    return alone, medians["empty", "forward"] + medians["empty", "backward"]


def efficiency_rows(case: str, layer: SparseLayer, x: Tensor, out: Tensor, ms: Mapping[str, float]) -> Iterator[Row]:
    """What the kernels reach of what the machine does at best: multiplying dense matrices, and copying.

    Compulsory traffic is that of inputs and outputs, read or written once; weights and their places come on top.
    """
    places = out.numel() // layer.conv.rows  # outputs that each weight takes part in, of all samples
    operations = 2 * layer.weight.numel() * places
    moved = 4 * (x.numel() + out.numel())  # each kernel reads one of these or both, and writes at most the other
    fma, copied = ceilings()
    for way, taken in ms.items():
        times, seconds = 1 + (way == "backward"), taken / 1e3
        rate = times * operations / seconds / 1e9
        yield compare(case, f"{way}_gflops", rate, "dense product", fma, less_is_better=False)
        rate = times * moved / seconds / 1e9
        yield compare(case, f"{way}_compulsory_gb_per_s", rate, "copy", copied, less_is_better=False)


_CEILINGS: dict[int, tuple[float, float]] = {}


def ceilings() -> tuple[float, float]:
    """Float32 GFLOP/s of a product of 2048x2048 matrices, and GB/s (read and written) of a copy of 256 MB, at best."""
    threads = torch.get_num_threads()
    if threads not in _CEILINGS:
        a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
        source, target = torch.randn(1 << 26), torch.randn(1 << 26)
        spent = interleave({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, 5, 1, CPU)
        _CEILINGS[threads] = (2 * 2048**3 / min(spent["product"]) / 1e9, 8 * (1 << 26) / min(spent["copy"]) / 1e9)
    return _CEILINGS[threads]


def bfloat16_rows(rounds: int) -> Iterator[Row]:
    """The large linear layer in bfloat16, where dense products are another matter."""
    for sparsity in (0.9, 0.99):
        torch.manual_seed(0)
        dense = prune(nn.Linear(768, 3072), sparsity).to(torch.bfloat16)
        assert isinstance(dense, nn.Linear)
        x = torch.randn(902, 768, dtype=torch.bfloat16)
        gradient = torch.randn(902, 3072, dtype=torch.bfloat16)
        passes = {"ours": Pass(sparse_form(dense), x, gradient), "dense": Pass(dense, x, gradient)}
        steps = {name: lambda one=one: (one.forward(), one.backward()) for name, one in passes.items()}
        spent = {name: 1e3 * spread(times)[1] for name, times in interleave(steps, rounds, 2, CPU).items()}
        threads = torch.get_num_threads()
        case = f"linear 768 to 3072, batch 902, bfloat16, {sparsity:.0%} gone, {threads} thread{'s' * (threads > 1)}"
        yield compare(case, "step_ms", spent["ours"], "dense", spent["dense"], less_is_better=True)


def numba_rows(rounds: int) -> Iterator[Row]:
    """Why the kernels are C++: the forward pass in Numba, and the time until its first result."""
    torch.manual_seed(0)
    dense = prune(nn.Linear(768, 3072, bias=False), 0.95)
    assert isinstance(dense, nn.Linear)
    x = torch.randn(902, 768)
    run, seconds = numba_forward(dense, x)
    ours = sparse_form(dense)
    with torch.no_grad():
        start = time.perf_counter()
        found = ours(x)  # puts the weights in order
        first = 1e3 * (time.perf_counter() - start)
        torch.testing.assert_close(run(), found, rtol=1e-3, atol=1e-3)
        spent = interleave({"ours": lambda: ours(x), "numba": run}, rounds, 2, CPU)
    mine, theirs = (1e3 * spread(spent[name])[1] for name in ("ours", "numba"))
    case = "linear 768 to 3072, batch 902, 95% gone, 1 thread"
    yield compare(case, "forward_ms", mine, "Numba", theirs, less_is_better=True)
    yield compare(f"{case}: until the first result", "first_ms", first, "Numba", 1e3 * seconds, less_is_better=True)


def network_rows(rounds: int, batch: int = 64) -> Iterator[Row]:
    """A whole step of a ResNet-18 at 95 %, and its memory."""
    torch.manual_seed(0)
    dense = resnet18((3, 32, 32), 10)
    names = list(prunable_layers(dense))
    prune(dense, 0.95, skip=[names[0], names[-1]])
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    networks = {"ours": sparsify(dense, x).network, "dense": copy.deepcopy(dense)}
    if has(PEER):
        networks[PEER] = authors_network(dense, (batch, 3, 32, 32))

    def step_of(network: nn.Module) -> tuple[Callable[[], None], torch.optim.Optimizer]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()

        return step, optimizer

    steps = {name: step_of(network) for name, network in networks.items()}
    spent = interleave({name: step for name, (step, _) in steps.items()}, rounds, 2, CPU)
    medians = {name: 1e3 * spread(times)[1] for name, times in spent.items()}
    threads = torch.get_num_threads()
    case = f"ResNet-18 on 32x32 images, batch {batch}, 95% gone, {threads} thread{'s' * (threads > 1)}"
    for peer in medians.keys() - {"ours"}:
        yield compare(case, "step_ms", medians["ours"], peer, medians[peer], less_is_better=True)
    if threads == 1:
        peaks = {n: peak_live_bytes(steps[n][0], networks[n], steps[n][1])["total"] / 1e6 for n in ("ours", "dense")}
        held = sum(layer.compiled.nbytes for layer in networks["ours"].modules() if isinstance(layer, SparseLayer))
        ours = peaks["ours"] + (scratch_bytes() + held) / 1e6
        yield compare(case, "peak_megabytes", ours, "dense", peaks["dense"], less_is_better=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--tasks", type=int, nargs="+", default=range(len(TASKS)), help="numbers of the layers to time")
    parser.add_argument("--layers-alone", action="store_true", help="no whole network, no bfloat16, no Numba")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows: list[Row] = []

    def keep(found: Iterator[Row]) -> None:
        for row in found:
            rows.append(row)
            theirs = "" if row.peer_value is None else f"{row.peer_value:10.3f} {row.ratio:6.2f}x"
            print(f"{row.case:62} {row.metric:28} {row.ours:10.3f} {row.peer:14} {theirs}", flush=True)
        gc.collect()

    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for task in arguments.tasks:
            for sparsity in arguments.sparsities:
                keep(layer_rows(TASKS[task], sparsity, arguments.rounds))
        if not arguments.layers_alone:
            keep(bfloat16_rows(arguments.rounds))
            keep(network_rows(max(3, arguments.rounds // 2)))
    if has("numba") and not arguments.layers_alone:
        torch.set_num_threads(1)
        keep(numba_rows(arguments.rounds))
    where: Mapping[str, Any] = {**environment(CPU), "threads": max(arguments.threads), "kernels": instruction_set()}
    write_results(arguments.out, where, rows)


if __name__ == "__main__":
    main()
