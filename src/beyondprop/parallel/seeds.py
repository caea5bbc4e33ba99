"""Processes that evaluate one network at perturbations they all know, and tell each other costs alone."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch.distributed as dist
from torch import Tensor

from beyondprop.errors import UserError
from beyondprop.parallel.place import Place
from beyondprop.parallel.share import Share, expecting_the_others, require_processes
from beyondprop.rule import Rule
from beyondprop.rules.perturbation.division import Division


class Evaluating(Protocol):
    """A rule that hears costs at perturbed parameters."""

    division: Division


class SeedShare:
    """The evaluations of a rule that one of several processes makes.

        share = SeedShare(rule, Place(rank=rank, ranks=ranks))
        optimizer = torch.optim.Adam(rule.parameters())
        for x, y in batches:  # the same ones in every process, from the same seed
            optimizer.zero_grad()
            share.backward(x, y)
            optimizer.step()

    Every process builds the rule from the same seed, and so draws the same perturbations; of K processes each evaluates
    every K-th of them, and hears from the others what theirs cost. No gradient and no weight is ever sent: a step sends
    one number for each evaluation, whatever the network's size. All processes have the same weights, bit by bit, on
    machines that compute alike.

    Args:
        rule: That evaluates, such as `MultiplexedGradientDescent` or `LayerwisePerturbation`.
        place: Which process this is.

    Attributes:
        in_step: True: the processes wait for each other at every step.
        sent_bytes: Handed to the others by this process in `backward`, so far.
        steps: Calls of `backward`, so far.

    Raises:
        UserError: The rule evaluates nothing that could be shared out, or there is no process group.
    """

    in_step = True

    def __init__(self, rule: Rule, place: Place) -> None:
        if not evaluates(rule):
            raise UserError(f"{type(rule).__name__} makes no evaluations that could be shared out among processes")
        if place.replicas > 1:
            raise UserError("--data-parallel is for blocks that learn alone: leave it out, all processes share a batch")
        require_processes(place)
        self.rule, self.place = rule, place
        self.sent_bytes = self.steps = 0
        cast(Evaluating, rule).division = Division(place.rank, place.ranks, self._exchange)

    @property
    def step_bytes(self) -> int:
        """What it has sent at a step, on average."""
        return self.sent_bytes // max(self.steps, 1)

    def backward(self, x: Tensor, y: Tensor, phase: str | None = None) -> Tensor:
        """As `Rule.backward`, with the whole batch in every process.

        Raises:
            RunError: Another process is gone.
        """
        self.steps += 1
        return self.rule.backward(x, y, phase)

    def state_dict(self) -> dict[str, Any]:
        """The rule's own: every process has all of it."""
        return self.rule.state_dict()

    def _exchange(self, costs: Tensor) -> None:
        with expecting_the_others():
            dist.all_reduce(costs)
        self.sent_bytes += costs.nbytes


def share_of(rule: Rule, place: Place) -> Share | SeedShare:
    """What one process does of a rule: its own evaluations, or its own blocks.

    Raises:
        UserError: Neither can be shared out, or not to so many processes.
    """
    return SeedShare(rule, place) if evaluates(rule) else Share(rule, place)


def evaluates(rule: object) -> bool:
    """Whether a rule makes evaluations that processes can share out."""
    return isinstance(getattr(rule, "division", None), Division)
