"""The recurrent part of `relaxation_step.py`: Hamiltonian echoes beside back-propagation through time.

    python benchmarks/relaxation_recurrent.py --rounds 15

Both sides train the same network of Hamiltonian units through the same leapfrog, in float32, by the library's own
classes: the peer is `Backprop`, whose graph holds every state. A step is the forward pass and all gradients; the
optimizer, the same for both, is left out. Before anything is timed the gradients are compared. Memory is counted tensor
by tensor (`measure/memory.py`), without parameters, their gradients, and the batch.

Floor. In units of one run of the system over the batch, back-propagation takes one forward and about two backward; the
echo one forward, two for the echoes, and, for blocks with something behind them, one to recall where they were: 4 to 3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from _timing import Row, compare, interleave, spread
from beyondprop.measure.memory import peak_live_bytes
from beyondprop.networks.hamiltonian import HamiltonianNetwork, Unit, hamiltonian_classifier
from beyondprop.rule import Rule
from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho
from beyondprop.rules.signals.backprop import Backprop

CPU = torch.device("cpu")
PEER = "back-propagation through time"
CLOSE = 0.05  # relative; eps and float32 together


@dataclass(frozen=True)
class Case:
    """A network and a batch."""

    unit: Unit
    size: int
    blocks: int
    batch: int
    steps: int
    inputs: int

    @property
    def name(self) -> str:
        """For the row."""
        return f"RHEL, {self.blocks} x {self.size} {self.unit} units, {self.steps} steps, batch {self.batch}"


TIMED = (
    Case("nonlinear", 128, 1, 128, 28, 28),
    Case("nonlinear", 128, 2, 128, 28, 28),
    Case("linear", 64, 2, 32, 500, 16),
)
LONG = tuple(Case("linear", 64, 2, 16, steps, 16) for steps in (100, 1000, 5000))


def sides(case: Case) -> tuple[HamiltonianNetwork, dict[str, Rule], Tensor, Tensor]:
    """Make both rules around one network, and a batch."""
    torch.manual_seed(0)
    network = hamiltonian_classifier(case.inputs, 10, size=case.size, blocks=case.blocks, unit=case.unit)
    x = torch.randn(case.batch, case.steps, case.inputs)
    return network, {"ours": RecurrentEcho(network), "theirs": Backprop(network)}, x, torch.arange(case.batch) % 10


def gap(network: nn.Module, rules: dict[str, Rule], x: Tensor, y: Tensor) -> float:
    """How far the gradients of both are from each other, relative to their length."""
    found = []
    for rule in rules.values():
        network.zero_grad()
        rule.backward(x, y)
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    network.zero_grad()
    return float((found[0] - found[1]).norm() / found[1].norm())


def rows(rounds: int) -> list[Row]:
    """Measure all of it.

    Args:
        rounds: Turns of the timing.

    Raises:
        SystemExit: The gradients differ.
    """
    found = []
    for case in TIMED:
        network, rules, x, y = sides(case)
        if (apart := gap(network, rules, x, y)) > CLOSE:
            raise SystemExit(f"{case.name}: gradients differ by {apart:.2g}")
        steps: dict[str, Callable[[], object]] = {
            name: lambda rule=rule, x=x, y=y: rule.backward(x, y) for name, rule in rules.items()
        }
        medians = {name: spread(seconds)[1] for name, seconds in interleave(steps, rounds, 2, CPU).items()}
        rates = {name: case.batch / seconds for name, seconds in medians.items()}
        found.append(
            compare(case.name, "sequences_per_second", rates["ours"], PEER, rates["theirs"], less_is_better=False)
        )
        found.append(Row(case.name, "relative_gradient_error", apart, PEER, None, None))
    for case in LONG:
        _, rules, x, y = sides(case)
        peaks = {name: held(rule, x, y) for name, rule in rules.items()}
        found.append(compare(case.name, "peak_live_bytes", peaks["ours"], PEER, peaks["theirs"], less_is_better=True))
    return found


def held(rule: Rule, x: Tensor, y: Tensor) -> int:
    """The most bytes of activations that are alive at any one time of a step."""
    return peak_live_bytes(lambda: rule.backward(x, y), rule)["highest_activations"]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    for row in rows(parser.parse_args().rounds):
        print(row.case, row.metric, f"{row.ours:.4g}", row.peer_value, row.ratio, sep="  ")


if __name__ == "__main__":
    main()
