"""Which process has which blocks."""

import subprocess
import sys

import pytest

from beyondprop.errors import UserError
from beyondprop.parallel import Place, find_place

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("replicas", [1, 2])
def test_every_block_and_the_head_belong_to_one_group_and_the_groups_are_even(ranks, replicas):
    places = [Place(rank=rank, ranks=ranks * replicas, replicas=replicas) for rank in range(ranks * replicas)]
    shares = [list(place.blocks(10)) for place in places]
    for group in range(ranks):
        members = range(group * replicas, (group + 1) * replicas)
        assert all(shares[member] == shares[members[0]] for member in members)
        assert [places[member].replica for member in members] == list(range(replicas))
    assert [block for share in shares[::replicas] for block in share] == list(range(1, 11))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    with_head = [place for place in places if place.has_head]
    assert len(with_head) == replicas
    assert {len(place.blocks(10)) for place in with_head} == {min(sizes)}


@pytest.mark.parametrize(
    ("environment", "flags", "found"),
    [
        ({}, {}, None),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}, {}, None),
        ({}, {"rank": 0, "ranks": 1}, None),
        (TORCHRUN, {}, Place(rank=2, ranks=4)),
        (TORCHRUN, {"replicas": 2}, Place(rank=2, ranks=4, replicas=2)),
        ({}, {"rank": 1, "ranks": 3}, Place(rank=1, ranks=3, by_hand=True)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, {"rank": 1, "ranks": 3}, Place(rank=1, ranks=3, by_hand=True)),
    ],
)
def test_the_place_is_read_from_torchrun_or_from_flags(environment, flags, found):
    assert find_place(environment, **flags) == found


@pytest.mark.parametrize(
    ("environment", "flags", "named"),
    [
        ({}, {"rank": 1}, "--rank and --ranks go together"),
        ({}, {"ranks": 2}, "--rank and --ranks go together"),
        ({}, {"rank": 2, "ranks": 2}, "0..1"),
        ({}, {"rank": 0, "ranks": 2, "replicas": 2}, "torchrun"),
        ({}, {"replicas": 2}, "torchrun"),
        (TORCHRUN, {"rank": 0, "ranks": 2}, "torchrun gives them"),
        (TORCHRUN, {"replicas": 3}, "--data-parallel 3 does not divide 4"),
        (TORCHRUN, {"replicas": 0}, "--data-parallel 0"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, {}, "MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, {}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, {}, "not -1"),
    ],
)
def test_what_does_not_fit_together_is_one_clear_line(environment, flags, named, one_line):
    with one_line(UserError, named):
        find_place(environment, **flags)


def test_more_groups_than_blocks_are_refused(one_line):
    with one_line(UserError, "5 processes cannot share out 4 blocks", "--data-parallel"):
        Place(rank=0, ranks=5).blocks(4)
    assert list(Place(rank=7, ranks=8, replicas=2).blocks(4)) == [4]


def test_finding_the_place_needs_no_torch():
    code = "import sys; from beyondprop import parallel; parallel.find_place({}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
