"""Speed of an averaged step of Hamiltonian echoes beside the authors' own code, on the cavity array of the paper.

    python benchmarks/relaxation_echo.py --checkout /path/to/self_learning_machines --rounds 10

    git clone https://github.com/victorlopezpastor/self_learning_machines
    git -C self_learning_machines checkout 8a1a5ac

A step is one pattern presented to 4 or 40 replicas of different intensity: two echoes of 499 steps, and the update by
friction, in double precision on one thread. The peer is numpy and scipy; its progress bar's package, which it imports,
is stood in for. Both sides are in one process and take turns, step by step. Before that both take one step from one
start, and unless it leads them to the same learning modes to rounding nothing is measured.

Three of our steps are measured beside the same one of the peer:

- "alternating": its own two echoes one after the other, four maps, by its own splitting. Same numbers to rounding.
- "averaged": echoes of both signs as one batch after one forward map, by its own splitting.
- "averaged, merged": the same with all couplings in one exact part, the default; an error of the same order.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from _timing import Row, compare, interleave, spread
from beyondprop.networks.hamiltonian_echo import cavity_array
from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho
from beyondprop.rules.relaxation.noting_echo import SignCost
from peers._common import check_commit

CPU = torch.device("cpu")
COMMIT = "8a1a5ac7de52d0b48ef0de361e20e2388676066e"
PEER = f"victorlopezpastor/self_learning_machines@{COMMIT[:7]}, cavity_array"
REPLICAS = (4, 40)
EPSILON, MASS, LIMIT, LOSS = 1e-4, 1 / 300, 0.1, 1e2
SIDE, KERR, HOPPING, COUPLING, TIME, POINTS = 4, -2.0, 10.0, 0.3, 0.04, 500
PATTERN = 1  # (1, -1), of which the target is negative
SAME = 1e-7  # of the learning modes: rounding of 1e-13 a map is divided by the mass, and grows in a second echo


def rows(checkout: Path | None, rounds: int, points: int = POINTS) -> list[Row]:
    """Measure; without a checkout the peer's values are None.

    Args:
        checkout: Of the peer.
        rounds: Turns that count, of each side.
        points: Of a map: one more than its steps.
    """
    found = []
    for count in REPLICAS:
        amplitudes = 16 / 25 * torch.linspace(0.4, 1.4, count, dtype=torch.float64)
        with peer(checkout) as modules:
            start, theirs = peer_step(modules, amplitudes, points) if modules else (None, None)
        theta = torch.rand(count, SIDE**2, dtype=torch.float64) if start is None else start
        sides: dict[str, Callable[[], Any]] = {
            "alternating": our_step(amplitudes, theta, points, echo="alternating", split=True),
            "averaged": our_step(amplitudes, theta, points, echo="averaged", split=True),
            "averaged, merged": our_step(amplitudes, theta, points, echo="averaged", split=False),
        }
        if theirs is not None:
            check_alike(sides["alternating"](), theirs())
            sides["peer"] = theirs
        seconds = interleave(sides, rounds, 1, CPU)
        other = spread(seconds["peer"])[1] if "peer" in seconds else None
        for name in ("alternating", "averaged", "averaged, merged"):
            case = f"averaged Hamiltonian echo, {count} arrays of 20 modes, {points - 1} steps, {name}"
            mine = spread(seconds[name])[1]
            found.append(compare(case, "seconds_per_step", mine, PEER, other, less_is_better=True))
    return found


def our_step(
    amplitudes: torch.Tensor, theta: torch.Tensor, points: int, *, echo: Any, split: bool
) -> Callable[[], torch.Tensor]:
    """Make a step from θ, always the same one, that returns where it leads."""
    system = cavity_array(
        amplitudes,
        theta,
        side=SIDE,
        kerr=KERR,
        hopping=HOPPING,
        coupling=COUPLING,
        time=TIME,
        steps=points - 1,
        split=split,
    )
    rule = HamiltonianEcho(system, SignCost(0.5 * amplitudes), echo=echo, epsilon=EPSILON, mass=MASS, limit=LIMIT)
    optimizer = torch.optim.SGD(rule.parameters(), lr=EPSILON / MASS / (1 if echo == "averaged" else 2))
    x, y = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.tensor([1])

    def step() -> torch.Tensor:
        with torch.no_grad():
            system.theta.copy_(theta)
        for phase in rule.phases:
            optimizer.zero_grad()
            rule.backward(x, y, phase)
            optimizer.step()
        return system.theta.detach().clone()

    return step


def peer_step(
    modules: tuple[Any, Any], amplitudes: torch.Tensor, points: int
) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """Draw a start by the peer's own function, and make its averaged step from there."""
    import numpy as np  # noqa: PLC0415  # the peer's

    echoes, datasets = modules
    psi, theta, targets = datasets.XOR_fields(SIDE, 1, len(amplitudes), amplitudes.numpy())
    constants = [KERR, HOPPING, COUPLING, np.zeros(SIDE)]

    def flat(field: Any) -> torch.Tensor:
        return torch.from_numpy(field.real.reshape(SIDE**2, -1).T.copy())

    def step() -> torch.Tensor:
        arguments = (psi[:, :, PATTERN, :], theta, constants, TIME, points, targets[PATTERN], EPSILON, LOSS, MASS)
        return flat(echoes.HEB_step_av(*arguments)[1])

    return flat(theta), step


@contextlib.contextmanager
def peer(checkout: Path | None) -> Iterator[tuple[Any, Any] | None]:
    """The peer's modules `HEB` and `datasets`, or None without a checkout; one of another commit is refused."""
    if checkout is None:
        yield None
        return
    check_commit(checkout, COMMIT)
    bar = types.ModuleType("tqdm")
    bar.tqdm = iter  # type: ignore[attr-defined]
    stands = "tqdm" not in sys.modules
    if stands:
        sys.modules["tqdm"] = bar
    folder = str(checkout / "cavity_array")
    sys.path.insert(0, folder)
    try:
        import datasets  # noqa: PLC0415
        import HEB  # noqa: PLC0415
    finally:
        sys.path.remove(folder)
        if stands:
            del sys.modules["tqdm"]
    yield HEB, datasets


def check_alike(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Refuse to compare steps that differ."""
    if not (difference := float((ours - theirs).abs().max())) < SAME:
        raise SystemExit(f"the steps lead to different learning modes, by {difference:.1e}")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, help="of the peer")
    parser.add_argument("--rounds", type=int, default=10, help="turns that count")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for row in rows(options.checkout, options.rounds):
        ratio = "" if row.ratio is None else f"{row.ratio:6.1f}x"
        print(f"{row.ours:9.4f} s {row.peer_value or float('nan'):9.4f} s {ratio}  {row.case}")


if __name__ == "__main__":
    main()
