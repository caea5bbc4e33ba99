"""Speed of a step of regularized inversion, beside the authors' program and beside back-propagation through time.

    python benchmarks/inversion_step.py --tpri /path/to/tpri

A step is zero_grad, the forward pass, the rule, and plain SGD, on one batch of random sequences, in float32 on one
thread; no evaluation, no loading of data. The network is nn.RNN with 100 tanh units and a linear readout of the last
state, at lengths and batches of arXiv 2112.01453: 28 numbers for 28 steps, 2 for 30, 6 for 60 and 120 (batch 20), 1 for
784 (batch 16). The peer is github.com/vroulet/tpri at commit c7e7c10, its `target_prop` with r = 1, linearised, as its
`run_optim` calls it:

    git clone https://github.com/vroulet/tpri
    git -C tpri checkout c7e7c10e3382773b634c183a977f125147aa9419

Both sides start from the same weights, and before anything is timed their gradients must agree, in float64 to rounding.
Rows of "bp" have torch's own nn.RNN under autograd for the peer: above 1/2, a step takes less than twice its time.
Sides take turns, round by round, with a few steps at a time, as in a training; figures are medians. The GRU stands
beside back-propagation alone: the peer's targets are those of other gates. Numbers below the smallest normal one are
zero, for all sides, as they are in our trainings: targets halve at every step, and processors are slow with such
numbers.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop.networks.sequences import SequenceReader
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.regularized_inversion import TPRI
from beyondprop.training.runs import use_processor
from peers._common import check_commit

OUT = Path(__file__).resolve().parent / "results" / "inversion_step.json"
COMMIT = "c7e7c10e3382773b634c183a977f125147aa9419"
PEER = "vroulet/tpri@c7e7c10"
BURST = 5  # steps of a side in a round: the first of them finds caches and memory as the other side has left them
G, R, CPU = 1e-2, 1.0, torch.device("cpu")
CLIP = 1e-3  # as the peer has it


@dataclass(frozen=True)
class Shape:
    """Sequences of a batch."""

    steps: int
    inputs: int
    batch: int
    classes: int


SHAPES = (Shape(28, 28, 20, 10), Shape(30, 2, 20, 1), Shape(60, 6, 20, 4), Shape(120, 6, 20, 4), Shape(784, 1, 16, 10))


def import_peer(checkout: Path) -> Any:
    """Import its recurrent network."""
    check_commit(checkout, COMMIT)
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    try:
        from src.model.rnn import RNN  # noqa: PLC0415
    finally:
        sys.path.remove(str(checkout))
    return RNN


def step_of(rule: Any, x: Tensor, y: Tensor) -> Callable[[], object]:
    """A step of ours. The rate is so small that no weight leaves where it started: all rounds do the same work."""
    optimizer = torch.optim.SGD(rule.parameters(), lr=1e-9)

    def step() -> None:
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()

    return step


def peer_step(theirs: Any, loss: Any, x: Tensor, y: Tensor) -> Callable[[], object]:
    """A step of the peer, as its `run_optim` has it."""
    optimizer = torch.optim.SGD([p for n, p in theirs.named_parameters() if "reverse" not in n], lr=1e-9)

    def step() -> None:
        optimizer.zero_grad()
        states, last = theirs.rep(x)
        theirs.update_reverse(reg=R, reverse_mode="optim")
        read = last.detach().clone().requires_grad_()
        loss(theirs.predict(read), y).backward()
        theirs.target_prop(x, states, read - G * read.grad, reverse_mode="optim", diff_mode="linearized")
        optimizer.step()

    return step


def sides(shape: Shape, hidden: int, peer: Any) -> dict[str, Callable[[], object]]:
    """All steps that are timed at a shape, from the same weights."""
    torch.manual_seed(0)
    x = torch.rand(shape.batch, shape.steps, shape.inputs) / 10
    regression = shape.classes == 1
    y = torch.rand(shape.batch, 1) if regression else torch.randint(shape.classes, (shape.batch,))
    loss = nn.MSELoss() if regression else nn.CrossEntropyLoss()
    made: dict[str, Any] = {}
    for cell in ("tanh", "gru"):
        network = SequenceReader(shape.inputs, shape.classes, hidden=hidden, cell=cell)  # type: ignore[arg-type]
        twin = SequenceReader(shape.inputs, shape.classes, hidden=hidden, cell=cell)  # type: ignore[arg-type]
        twin.load_state_dict(network.state_dict())
        made |= {
            f"tp-ri {cell}": TPRI(network, loss, target_step=G, regularisation=R, clip=CLIP),
            f"bp {cell}": Backprop(twin, loss),
        }
    network = made["tp-ri tanh"].network
    local = SequenceReader(shape.inputs, shape.classes, hidden=hidden)
    local.load_state_dict(network.state_dict())
    made["local tanh"] = TPRI(local, loss, target_step=G, regularisation=R, clip=CLIP, mode="local")
    steps = {name: step_of(rule, x, y) for name, rule in made.items()}
    if peer is not None:
        theirs = peer(shape.inputs, hidden, shape.classes)
        theirs.rnn.load_state_dict(network.rnn.state_dict())
        theirs.predict.lin.load_state_dict(network.readout.state_dict())
        steps["peer"] = peer_step(theirs, loss, x, y)
        steps["peer"]()
        steps["tp-ri tanh"]()
        near = 1e-2 if x.dtype == torch.float32 else 1e-10
        for ours, other in zip(network.rnn.parameters(), theirs.rnn.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, other.grad, rtol=near, atol=near / 10 * float(other.grad.abs().max()))
    return steps


def burst(step: Callable[[], object]) -> Callable[[], object]:
    """Several steps of one side, one after another."""

    def steps() -> None:
        for _ in range(BURST):
            step()

    return steps


def measured(shape: Shape, hidden: int, peer: Any, rounds: int) -> list[Row]:
    """Time all sides at one shape."""
    seconds = interleave({name: burst(step) for name, step in sides(shape, hidden, peer).items()}, rounds, 1, CPU)
    middle = {name: 1000 * spread(taken)[1] / BURST for name, taken in seconds.items()}
    where = f"{shape.steps} steps of {shape.inputs}, {hidden} units, batch {shape.batch}"
    rows = []
    for name, cell in (("tp-ri", "tanh"), ("local", "tanh"), ("tp-ri", "gru")):
        title = {"tp-ri": "through time", "local": "local"}[name]
        ours = middle[f"{name} {cell}"]
        case = f"{title}, {cell}, {where}"
        rows.append(compare(case, "step_milliseconds", ours, "bp, torch", middle[f"bp {cell}"], less_is_better=True))
        if name == "tp-ri" and cell == "tanh":
            rows.append(compare(case, "step_milliseconds", ours, PEER, middle.get("peer"), less_is_better=True))
    return rows


def main(arguments: list[str] | None = None, shapes: tuple[Shape, ...] = SHAPES, hidden: int = 100) -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpri", type=Path, help="checkout of the peer")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    with use_processor(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer's torch.cholesky and torch.svd are deprecated
        peer = None if options.tpri is None else import_peer(options.tpri.resolve())
        torch.set_default_dtype(torch.float64)
        try:
            sides(Shape(12, 3, 5, 4), 7, peer)  # in float64 the gradients agree to rounding
        finally:
            torch.set_default_dtype(torch.float32)
        rows = []
        for shape in shapes:
            rows += measured(shape, hidden, peer, max(3, options.rounds * 60 // max(60, shape.steps) // BURST))
            for row in rows[-4:]:
                ratio = "" if row.ratio is None else f"{row.ratio:.2f}x {row.peer}"
                print(f"{row.case:60} {row.ours:8.2f} ms  {ratio}", flush=True)
        write_results(options.out, environment(CPU), rows)


if __name__ == "__main__":
    main()
