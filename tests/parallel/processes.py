"""What needs several processes at once, run in one go: `python processes.py FOLDER`; tests look at what it leaves.

torch and matplotlib are imported once, and every process is a fork from there.
"""

import gc
import json
import multiprocessing
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import torch
import torch._dynamo  # every optimizer imports it
import torch.distributed as dist
from small_parts import (
    EVALUATING,
    EXECUTION,
    RECIPE,
    SEEDS,
    NoiseFree,
    small_batch,
    small_rule,
    small_settings,
    small_splits,
)

from beyondprop import parallel
from beyondprop.catalogue import find_recipe
from beyondprop.errors import RunError
from beyondprop.parallel import Place, SeedShare, Share
from beyondprop.parallel.share import Share as ShareClass
from beyondprop.training import curves, runs


def fixed(folder, place):
    """A whole training on two machines that see nothing of each other's disk."""
    seen, backward = [], ShareClass.backward

    def watched(self, x, y, phase=None):
        seen.append([dist.is_initialized(), open_sockets()])
        return backward(self, x, y, phase)

    ShareClass.backward = watched
    outcome = run(folder / f"machine-{place.rank}", place, small_settings())
    (folder / f"seen-{place.rank}.json").write_text(json.dumps({"seen": seen, "outcome": outcome is not None}))


def open_sockets():
    return sum(os.path.exists(path) and stat.S_ISSOCK(path.stat().st_mode) for path in Path("/proc/self/fd").iterdir())


def learned(folder, place):
    """Five steps with a learned embedding and three processes, by a loop of our own."""
    with group(place):
        rule = small_rule(learned=True)
        share = Share(rule, place)
        optimizer = torch.optim.SGD(rule.parameter_groups(), lr=0.1, momentum=0.9)
        for count in range(7, 12):
            optimizer.zero_grad()
            share.backward(*small_batch(count))
            optimizer.step()
        torch.save(
            {"part": share.state_dict(), "sent": share.sent_bytes, "sockets": open_sockets()},
            folder / f"learned-{place.rank}.pt",
        )


def replicas(folder, place):
    """Two groups of two replicas: the gradients of a batch, of a batch of one, and of both accumulated."""
    place = Place(rank=place.rank, ranks=place.ranks, replicas=2)
    with group(place):
        found = {}
        for name, counts in (("seven", [7]), ("one", [1]), ("both", [7, 1])):
            rule = small_rule(NoiseFree, learned=True)
            share = Share(rule, place)
            for count in counts:
                share.backward(*small_batch(count))
            found[name] = {n: p.grad for n, p in rule.named_parameters() if p.grad is not None}
        noisy = small_rule()
        Share(noisy, place).backward(*small_batch(1))
        rule = small_rule()
        draws = []
        rule.noisy_label = lambda t, y: draws.append(torch.randn(3)) or NoiseFree.noisy_label(rule, t, y)
        Share(rule, place).backward(*small_batch(4))
        after = torch.randn(1)
        torch.save({**found, "draws": draws, "after": after}, folder / f"replicas-{place.rank}.pt")


def seeds(folder, place):
    """Evaluations shared out: by a loop of our own, and a whole training of a recipe."""
    with group(place):
        found = {}
        for name, make in EVALUATING.items():
            rule = make()
            share = SeedShare(rule, place)
            optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
            for count in (7, 8, 9):
                optimizer.zero_grad()
                share.backward(*small_batch(count))
                optimizer.step()
            found[name] = {"weights": rule.state_dict(), "sent": share.sent_bytes, "step": share.step_bytes}
        torch.save(found, folder / f"seeds-{place.rank}.pt")
    run(folder / "seeds", place, SEEDS, find_recipe("mgd/digits"))


def in_step(folder, place):
    """A learned embedding, from the first step to the last."""
    run(folder / "in-step", place, LEARNED)


def killed_in_step(folder, place):
    """One process is killed in the third epoch; the other hears of it, and has a later checkpoint."""
    killed(folder, "killed", place, LEARNED, step=12)


def killed_replica(folder, place):
    """One of two replicas of a group is killed in the second epoch; the others hear of it."""
    killed(folder, "killed-replica", replicated(place), small_settings(), step=7)


def resumed_replica(folder, place):
    """All of them go on."""
    run(folder / "killed-replica", replicated(place), small_settings())


def killed(folder, name, place, settings, step):
    """Rank 1 is killed at a step."""
    backward, calls = ShareClass.backward, []

    def watched(self, x, y, phase=None):
        calls.append(x)
        if place.rank == 1 and len(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return backward(self, x, y, phase)

    ShareClass.backward = watched
    try:
        run(folder / name, place, settings)
    except RunError as error:
        (folder / f"{name}-gone-{place.rank}.txt").write_text(str(error))


def resumed_in_step(folder, place):
    """All of them go on."""
    run(folder / "killed", place, LEARNED)


def other_settings(folder, place):
    """A process is told to train something else."""
    try:
        run(folder / "differ", place, small_settings(eta=0.1 + place.rank))
    except RunError as error:
        (folder / f"differ-{place.rank}.txt").write_text(str(error))


def several(folder, place):
    """Two replicas of each of two groups, a whole training."""
    run(folder / "several", replicated(place), small_settings())


def replicated(place):
    """Of two groups with two replicas each."""
    return Place(rank=place.rank, ranks=4, replicas=2)


LEARNED = small_settings(epochs=4, embedding="learned", dim=4)


def run(folder, place, settings, recipe=RECIPE):
    return parallel.train(
        recipe, settings, EXECUTION, folder, place, resume=True, progress=False, splits=small_splits()
    )


class group:  # noqa: N801  # a context
    """The process group of a loop of our own."""

    def __init__(self, place):
        dist.init_process_group("gloo", rank=place.rank, world_size=place.ranks)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        dist.destroy_process_group()


def start(scenario, ranks, folder, lost=()):
    """Run one scenario in so many processes; all but the lost ones must come to their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=begin, args=(scenario, rank, ranks, port, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for rank, process in enumerate(processes):
        process.join(timeout=120)
        if (process.exitcode != 0) != (rank in lost):
            for other in processes:
                other.kill()
            raise SystemExit(f"{scenario.__name__}: rank {rank} ended with {process.exitcode}")


def begin(scenario, rank, ranks, port, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    scenario(folder, Place(rank=rank, ranks=ranks))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    # What takes most of the time of trainings this short: drawing, and waiting for the disk.
    curves.draw_curves = runs.draw_curves = lambda *_: b""
    os.fsync = lambda _: None
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    start(fixed, 2, where)
    start(learned, 3, where)
    start(replicas, 4, where)
    start(seeds, 3, where)
    start(in_step, 2, where)
    start(killed_in_step, 2, where, lost=[1])
    start(resumed_in_step, 2, where)
    start(other_settings, 2, where)
    start(several, 4, where)
    start(killed_replica, 4, where, lost=[1])
    start(resumed_replica, 4, where)
