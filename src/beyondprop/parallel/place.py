"""Which one of several processes this is; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beyondprop.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Place:
    """One of several processes that train a rule of blocks.

    Neighbouring ranks, which are likely to be on one machine, are the replicas of one group; each group has
    neighbouring blocks of its own, as many as the others or one more.

    Args:
        rank: Number of the process, from 0.
        ranks: How many there are.
        replicas: Processes that divide each batch of a block among them.
        by_hand: Whether it was started alone, without torchrun: it never meets the others.

    Raises:
        UserError: A number is out of range, or the replicas do not divide the ranks.

    >>> [list(Place(rank=rank, ranks=3).blocks(10)) for rank in range(3)]
    [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    """

    rank: int
    ranks: int
    replicas: int = 1
    by_hand: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise UserError(f"the rank must lie in 0..{self.ranks - 1} where there are {self.ranks}, not {self.rank}")
        if self.replicas < 1 or self.ranks % self.replicas:
            raise UserError(
                f"--data-parallel {self.replicas} does not divide {self.ranks} processes: start a multiple of it"
            )

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.ranks // self.replicas

    @property
    def group(self) -> int:
        """Number of the group this process belongs to, from 0."""
        return self.rank // self.replicas

    @property
    def replica(self) -> int:
        """Number of this process within its group, from 0."""
        return self.rank % self.replicas

    @property
    def has_head(self) -> bool:
        """Whether its group trains the head: the last one, which never has more blocks than another."""
        return self.group == self.groups - 1

    def blocks(self, count: int) -> range:
        """The group's blocks, numbered from 1.

        Args:
            count: Number of blocks in all.

        Raises:
            UserError: There are fewer blocks than groups.
        """
        if count < self.groups:
            raise UserError(
                f"{self.groups} processes cannot share out {count} blocks: start fewer, or let several divide each "
                "batch of a block by --data-parallel"
            )
        least, rest = divmod(count, self.groups)
        first = self.group * least + min(self.group, rest)
        return range(first + 1, first + 1 + least + (self.group < rest))


def find_place(
    environment: Mapping[str, str], *, rank: int | None = None, ranks: int | None = None, replicas: int = 1
) -> Place | None:
    """Read from flags, or from what torchrun sets, which process this is.

    Args:
        environment: Variables `RANK` and `WORLD_SIZE`, and `MASTER_ADDR` by which the processes meet.
        rank: Given by hand, in place of the environment.
        ranks: Given by hand together with the rank.
        replicas: As in `Place`.

    Returns:
        None where there is but one process.

    Raises:
        UserError: Half of it is missing, both ways are used at once, or a number is out of range.
    """
    world = _number(environment, "WORLD_SIZE", 1)
    if (rank is None) != (ranks is None):
        raise UserError("--rank and --ranks go together: which process this is, and how many there are")
    if rank is not None and ranks is not None:
        if world > 1:
            raise UserError("--rank and --ranks are for processes started by hand: torchrun gives them by itself")
        if replicas > 1:
            raise UserError("--data-parallel needs all processes at once: start them with torchrun")
        place = Place(rank=rank, ranks=ranks, by_hand=True)
        return place if ranks > 1 else None
    if world == 1:
        if replicas != 1:
            raise UserError(f"--data-parallel {replicas} needs as many processes: start them with torchrun")
        return None
    if "MASTER_ADDR" not in environment:
        raise UserError(f"WORLD_SIZE is {world}, but there is no MASTER_ADDR: use torchrun, or --rank and --ranks")
    return Place(rank=_number(environment, "RANK", -1), ranks=world, replicas=replicas)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, str(default))
    try:
        return int(value)
    except ValueError:
        raise UserError(f"the environment variable {name} must be a whole number, not {value!r}") from None
