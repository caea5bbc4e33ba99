"""The part of multiplexed gradient descent in `perturbation_step.py`: our steps beside a plain loop over them.

- Exclusive or, 2-4-1: many networks as one computation, beside one network after another.
- Networks of the papers on images of Fashion-MNIST's shape: all parameters at once, and one layer at a time.
- What one of two processes that share out the evaluations hands to the other in a step, beside the gradients that
  DistributedDataParallel would send.

Both sides are in one process and take turns, step by step; the loop is `peers/multiplexed_loop.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _timing import Row, compare, interleave, spread
from beyondprop.networks.multiplexed import small_convolutional, tanh_vgg
from beyondprop.networks.population import Population
from beyondprop.rule import Rule
from beyondprop.rules.perturbation.division import Division
from beyondprop.rules.perturbation.layerwise import LayerwisePerturbation
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import multiplexed_loop  # stands beside the other peers

CPU = torch.device("cpu")
PEER = "a loop over steps and networks in torch"


@dataclass(frozen=True)
class MultiplexedSize:
    """What is measured."""

    populations: tuple[int, ...] = (100, 1_000, 10_000)
    image: tuple[int, int, int] = (1, 28, 28)
    batch: int = 100
    steps: int = 10
    width: int = 8


def rows(size: MultiplexedSize, rounds: int) -> list[Row]:
    """Measure all of it."""
    return [*populations(size, rounds), *images(size, rounds), *sent(size)]


def populations(size: MultiplexedSize, rounds: int) -> list[Row]:
    """Exclusive or."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    alone, found = xor_network(), []
    loop = lambda: multiplexed_loop.step(alone, F.mse_loss, x, y, norm=0.05, steps=1, rate=0.1)  # noqa: E731
    for count in size.populations:
        rule = MultiplexedGradientDescent(
            Population(xor_network, count), lambda z, y: (z - y).square().mean(dim=(1, 2)), norm=0.05, copies=count
        )
        seconds = interleave({"ours": stepping(rule, x, y), "loop": loop}, rounds, 5, CPU)
        ours, theirs = count / spread(seconds["ours"])[1], 1 / spread(seconds["loop"])[1]
        case = f"exclusive or, {count:,} networks 2-4-1"
        found.append(compare(case, "network_steps_per_second", ours, PEER, theirs, less_is_better=False))
    return found


def images(size: MultiplexedSize, rounds: int) -> list[Row]:
    """Convolutional networks, all in channels_last."""
    x = torch.randn(size.batch, *size.image).to(memory_format=torch.channels_last)
    y, found = torch.randint(10, (size.batch,)), []
    losses = lambda z, y: F.cross_entropy(z, y, reduction="none")  # noqa: E731
    options: dict[str, Any] = {"norm": 1e-2, "steps": size.steps}
    multiplexed, layered = small_network(size), vgg(size)
    cases: dict[str, tuple[Rule, Callable[[], None]]] = {
        f"all parameters at once, {parameters(multiplexed):,} parameters": (
            MultiplexedGradientDescent(multiplexed, norm=1e-2, tau_x=size.steps),
            lambda: multiplexed_loop.step(multiplexed, F.cross_entropy, x, y, rate=0.0, **options),
        ),
        f"weights of one layer at a time, {parameters(layered):,} parameters": (
            LayerwisePerturbation(layered, perturb="weights", **options),
            lambda: multiplexed_loop.weights_step(layered, losses, x, y, **options),
        ),
        f"nodes of one layer at a time, {parameters(layered):,} parameters": (
            LayerwisePerturbation(layered, perturb="nodes", **options),
            lambda: multiplexed_loop.nodes_step(layered, losses, x, y, **options),
        ),
    }
    for case, (rule, loop) in cases.items():
        seconds = interleave({"ours": stepping(rule, x, y), "loop": loop}, rounds, 1, CPU)
        ours, theirs = (size.steps / spread(seconds[side])[1] for side in ("ours", "loop"))
        where = f"{case}, batch {size.batch}, {size.steps} steps an update"
        found.append(compare(where, "steps_per_second", ours, PEER, theirs, less_is_better=False))
    return found


def sent(size: MultiplexedSize) -> list[Row]:
    """Bytes, counted where they are handed over."""
    x, y = torch.randn(size.batch, *size.image), torch.randint(10, (size.batch,))
    rule, handed = MultiplexedGradientDescent(vgg(size), tau_x=size.steps), list[int]()
    rule.division = Division(0, 2, lambda costs: handed.append(costs.nbytes))
    rule.backward(x, y)
    gradients = sum(p.nbytes for p in rule.network.parameters())
    case = f"evaluations shared out, {parameters(rule.network):,} parameters, {size.steps} steps an update"
    peer = "back-propagation under DistributedDataParallel"
    return [compare(case, "sent_bytes_per_step_and_process", sum(handed), peer, gradients, less_is_better=True)]


def stepping(rule: Rule, x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step of a rule with plain SGD."""
    optimizer = torch.optim.SGD(rule.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()

    return step


def xor_network() -> nn.Module:
    """As the recipe's."""
    return nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid())


def small_network(size: MultiplexedSize) -> nn.Sequential:
    """That of arXiv 2303.03986."""
    return small_convolutional(size.image, 10, widths=(16, 32, 32)).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def vgg(size: MultiplexedSize) -> nn.Sequential:
    """That of arXiv 2501.15403."""
    return tanh_vgg(size.image, 10, width=size.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def parameters(network: nn.Module) -> int:
    """Count them."""
    return sum(p.numel() for p in network.parameters())
