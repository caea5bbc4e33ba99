"""One process's part of a rule, what it has to tell the others, and the parts put together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from beyondprop.errors import RunError, UserError
from beyondprop.parallel.place import Place
from beyondprop.rule import Rule
from beyondprop.rules.local.noprop.streams import block_stream, draw_step_seed


class Divisible(Protocol):
    """A rule whose blocks learn alone, each from a stream of random numbers of its own."""

    network: nn.ModuleList
    embedding: nn.Module
    head: nn.Module

    def train_only(self, blocks: Iterable[int], *, head: bool) -> None:
        """Train these blocks from now on (numbered from 1), and the head or not."""


class Share:
    """The part of a rule that one of several processes trains.

        share = Share(rule, Place(rank=rank, ranks=ranks))
        optimizer = torch.optim.AdamW(rule.parameter_groups())
        for x, y in batches:  # the same ones in every process, from the same seed
            optimizer.zero_grad()
            share.backward(x, y)
            optimizer.step()

    Every process builds the whole rule from the same seed. With a fixed embedding and one replica nothing is sent, no
    process group is needed, and `backward` is the rule's own. Otherwise the default process group has to be there, and
    every step sends: the gradient of a learned embedding, summed over all processes (classes x d numbers); with several
    replicas the gradients of the group's blocks and head, averaged over the group. The head is one group's alone, and
    is never sent.

    Replicas take a slice of each batch, with noise and dropout of their own. A batch of fewer samples than replicas
    goes whole to each of them.

    Args:
        rule: Whose blocks learn alone, such as `NoPropDT`; from now on it trains this process's part.
        place: Which process this is.

    Attributes:
        in_step: Whether the processes wait for each other at every step.
        step_bytes: What it sends at a step, in bytes of gradients; at most, where stages train one block after another.
        sent_bytes: Handed to the others by this process in `backward`, so far.

    Raises:
        UserError: The rule has no such blocks, or fewer than there are groups; or the processes have something to
            send and there is no process group.
    """

    def __init__(self, rule: Rule, place: Place) -> None:
        self.rule, self.place, parted = rule, place, _divisible(rule)
        parted.train_only(place.blocks(len(parted.network)), head=place.has_head)
        common = [p for p in parted.embedding.parameters() if p.requires_grad]
        self._common = common if place.ranks > 1 else []
        known = {id(p) for p in common}
        trained = [p for group in rule.parameter_groups() for p in group["params"]]
        self._own = [p for p in trained if id(p) not in known] if place.replicas > 1 else []
        self.in_step = bool(self._common or self._own)
        self.step_bytes = sum(p.nbytes for p in (*self._common, *self._own))
        self.sent_bytes = 0
        self._group: dist.ProcessGroup | None = None
        if self.in_step:
            self._group = _group_of(place)

    def backward(self, x: Tensor, y: Tensor, phase: str | None = None) -> Tensor:
        """As `Rule.backward`, with the whole batch in every process; then send what there is to send.

        Returns:
            The loss of this process's blocks on its slice.

        Raises:
            RunError: Another process is gone.
        """
        if not self.in_step:
            return self.rule.backward(x, y, phase)
        exchanged = [*self._common, *self._own]
        before = [p.grad for p in exchanged]  # accumulated by earlier calls, and exchanged then
        for parameter in exchanged:
            parameter.grad = None
        try:
            loss, weight = self._own_slice(x, y, phase)
            self._sum(self._common, weight, None)
            self._sum([p for p in self._own if p.grad is not None], weight, self._group)
        finally:
            for parameter, earlier in zip(exchanged, before, strict=True):
                if earlier is not None:
                    parameter.grad = earlier if parameter.grad is None else earlier + parameter.grad
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The part of the rule's `state_dict` that this process has trained, and what is common to all."""
        state = {name: v.cpu() if isinstance(v, Tensor) else v for name, v in self.rule.state_dict().items()}
        return part_of(self.rule, self.place, state)

    def _own_slice(self, x: Tensor, y: Tensor, phase: str | None) -> tuple[Tensor, float]:
        """The loss of this replica's slice, and the slice's weight in the mean over the batch."""
        replicas, replica = self.place.replicas, self.place.replica
        if replicas == 1:
            return self.rule.backward(x, y, phase), 1.0
        if len(x) >= replicas:
            part = slice(len(x) * replica // replicas, len(x) * (replica + 1) // replicas)
            weight = (part.stop - part.start) / len(x)
        else:
            part, weight = slice(None), 1 / replicas
        # All replicas take the same number from the global generator and so stay in step with the other groups.
        with block_stream(draw_step_seed(), replica, x.device):
            return self.rule.backward(x[part], y[part], phase), weight

    def _sum(self, parameters: Sequence[nn.Parameter], weight: float, group: dist.ProcessGroup | None) -> None:
        """Set each gradient to the weighted sum over a group of processes, by one message."""
        if not parameters:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        bucket = torch.cat([gradient.flatten() for gradient in gradients]) * weight
        with expecting_the_others():
            dist.all_reduce(bucket, group=group)
        self.sent_bytes += bucket.nbytes
        for parameter, summed in zip(parameters, bucket.split([p.numel() for p in parameters]), strict=True):
            # In the parameter's own memory format: fused optimizers read both by their order in memory.
            parameter.grad = torch.empty_like(parameter).copy_(summed.view_as(parameter))


def part_of(rule: nn.Module, place: Place, state: dict[str, Any]) -> dict[str, Any]:
    """What of a rule's state one process trains: its blocks, its head, and all that is no block and no head.

    Args:
        rule: A `Divisible` one; of any other, every process has all.
        place: Which process.
        state: As `rule.state_dict()`.
    """
    if not hasattr(rule, "train_only"):
        return dict(state)
    blocks = {str(block - 1) for block in place.blocks(len(_divisible(rule).network))}

    def mine(name: str) -> bool:
        top, *below = name.split(".")
        if top == "network":
            return below[0] in blocks
        return place.has_head or top != "head"

    return {name: value for name, value in state.items() if mine(name)}


def combine(rule: nn.Module, parts: Sequence[dict[str, Any]]) -> None:
    """Load the parts of all processes into one rule.

    Running statistics that replicas have gathered each from its slices are averaged.

    Args:
        rule: Made as in every process.
        parts: What `Share.state_dict` gives in each of them.

    Raises:
        RunError: A part is missing, does not fit, or two differ in a weight that should be the same.
    """
    weights = {name for name, _ in rule.named_parameters()}
    whole: dict[str, Any] = {}
    for name in rule.state_dict():
        values = [part[name] for part in parts if name in part]
        if not values:
            raise RunError(f"no process has trained {name}: give the parts of all")
        same = all(not isinstance(v, Tensor) or torch.equal(v, values[0]) for v in values)
        if not same and name in weights:
            raise RunError(
                f"the processes differ in {name}, which should be the same in all: they did not train together"
            )
        whole[name] = values[0] if same else _averaged(values)
    try:
        rule.load_state_dict(whole)
    except RuntimeError as error:
        raise RunError(f"the parts do not fit {type(rule).__name__}: {str(error).splitlines()[-1].strip()}") from error


@contextmanager
def expecting_the_others() -> Iterator[None]:
    """Around what needs every process.

    Raises:
        RunError: In place of what torch says when one is gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process is gone, or could not be reached: see what it says, and resume all of them "
            f"({str(error).splitlines()[0]})"
        ) from error


def _divisible(rule: nn.Module) -> Divisible:
    if not hasattr(rule, "train_only"):
        raise UserError(
            f"{type(rule).__name__} cannot be shared out among processes: blocks are (those of noprop-dt) that need no "
            "output of another one, and evaluations that can be divided (those of mgd)"
        )
    return cast(Divisible, rule)


def _averaged(values: list[Tensor]) -> Tensor:
    stacked = torch.stack(values)
    return stacked.mean(dim=0) if stacked.is_floating_point() else stacked.amax(dim=0)  # a count of batches


def require_processes(place: Place) -> None:
    """Refuse to go on without the default process group, or in one of another size.

    Raises:
        UserError: There is none, or it is not the place's.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise UserError(
            "a learned embedding, --data-parallel and evaluations that are shared out need all processes at once: "
            "start them with torchrun, and from a loop of your own call torch.distributed.init_process_group first"
        )
    if dist.get_world_size() != place.ranks or dist.get_rank() != place.rank:
        raise UserError(
            f"the process group has rank {dist.get_rank()} of {dist.get_world_size()}, "
            f"the place is {place.rank} of {place.ranks}"
        )


def _group_of(place: Place) -> dist.ProcessGroup | None:
    """The processes that train the same blocks."""
    require_processes(place)
    if place.replicas == 1:
        return None
    members = [list(range(g * place.replicas, (g + 1) * place.replicas)) for g in range(place.groups)]
    groups = [dist.new_group(ranks) for ranks in members]  # every process has to make every group
    return groups[place.group] if isinstance(groups[place.group], dist.ProcessGroup) else None
