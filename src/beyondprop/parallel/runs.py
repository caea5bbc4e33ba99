"""One process's run of a recipe, and the meeting of all at its end."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from beyondprop.checks import check_fields
from beyondprop.data import Splits
from beyondprop.errors import RunError
from beyondprop.parallel.merging import merge, rank_folder
from beyondprop.parallel.place import Place
from beyondprop.parallel.seeds import SeedShare, share_of
from beyondprop.parallel.share import Share, expecting_the_others
from beyondprop.recipe import Recipe, SolverSettings
from beyondprop.rule import Rule
from beyondprop.training import checkpoint
from beyondprop.training.assembly import assemble
from beyondprop.training.atomic import disk_errors, write_file, write_folder
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import METRICS, RESULT, SETTINGS, RunFolder, refuse_other_settings
from beyondprop.training.runs import Outcome, cost_of, fit_experiment, use_processor

PATIENCE = timedelta(minutes=30)  # for another process at the start, and at a step in step with it
SLOWEST = timedelta(days=100)  # how long the first to finish waits for the last
POLL_SECONDS = 0.05  # between two looks at who has come

_meetings = itertools.count()


def train(
    recipe: Recipe,
    settings: SolverSettings,
    execution: Execution,
    folder: str | os.PathLike[str],
    place: Place,
    *,
    resume: bool = False,
    progress: bool = True,
    splits: Splits | None = None,
    checkpoint_seconds: float = 120.0,
    tensorboard: bool = False,
) -> Outcome | None:
    """Train one process's part of a recipe into `folder/rank-RANK`.

    Processes of torchrun check at the start that they train the same thing, and meet again at the end, where rank 0
    makes one finished run of all parts in `folder`. A process that was started by hand meets nobody: see `merge`.

    Args:
        recipe: Which; its rule's blocks have to learn alone, or it evaluates what processes can share out.
        settings: Of the recipe's own class; the same in every process.
        execution: Where and how, and the seed. With device `"auto"` and CUDA, processes of torchrun divide a machine's
            devices among them.
        folder: Of the whole run.
        place: Which process this is.
        resume: Whether to go on with what `folder/rank-RANK` holds.
        progress: Whether to show progress on stderr.
        splits: The data; by default what the recipe names.
        checkpoint_seconds: As in `fit`; processes that go in step save at the end of every pass alone.
        tensorboard: As in `fit`.

    Returns:
        The outcome of the whole run at rank 0 of torchrun, else None.

    Raises:
        RunError: As in `beyondprop.training.train`; or processes differ in their settings, or one is gone.
        UserError: The recipe's rule cannot be shared out, or not to so many processes.
        NonFiniteError: A loss of this part is NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM.
    """
    check_fields(settings, execution)
    about: dict[str, Any] = {"recipe": recipe.id, "settings": asdict(settings), "execution": asdict(execution)}
    about |= {"ranks": place.ranks, "data_parallel": place.replicas}
    own = rank_folder(folder, place.rank)
    with use_processor(execution.threads), ExitStack() as meeting:
        meets = meeting.enter_context(_meeting(place))
        built = assemble(recipe, settings, _on_own_device(execution), splits)
        share = share_of(cast(Rule, built.rule), place)  # what cannot be shared out is refused there
        latest = _agree(about, own, share) if meets else None
        if not share.in_step:  # no group of processes exists while they train
            meeting.close()
        about["rank"] = place.rank
        with RunFolder(own, about, resume=resume, latest=latest, keep=2 if share.in_step else 1) as run:
            if run.result is None:
                fitted = fit_experiment(
                    built,
                    run,
                    progress=progress,
                    checkpoint_seconds=checkpoint_seconds,
                    tensorboard=tensorboard,
                    team=share,
                )
                if share.in_step:  # nobody has finished before the last checkpoint of all stands
                    with expecting_the_others():
                        dist.barrier()
                run.write_result({**run.settings, **cost_of(fitted), "sent_bytes_per_step": share.step_bytes})
        if not share.in_step:
            meeting.enter_context(_meeting(place, SLOWEST))
        if meets:
            _bring(place, Path(folder))
    return merge(folder, splits=splits) if meets and place.rank == 0 else None


@contextmanager
def _meeting(place: Place, patience: timedelta = PATIENCE) -> Iterator[bool]:
    """A process group while it lasts; False for a process that was started by hand and meets nobody.

    Args:
        place: Which process this is.
        patience: How long to wait for another process.
    """
    if place.by_hand:
        yield False
        return
    with expecting_the_others():
        store, rank, ranks = next(dist.rendezvous("env://", timeout=patience))
        store = dist.PrefixStore(f"beyondprop/{next(_meetings)}", store)
        store = dist.PrefixStore(_name_of_meeting(store, place, patience), store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=patience)
    try:
        yield True
    finally:
        dist.destroy_process_group()


def _name_of_meeting(store: dist.Store, place: Place, patience: timedelta) -> str:
    """A name that the processes of this meeting share, and that no earlier one had.

    torchrun's store outlives the processes: after a restart it still holds where the dead ones could be reached, and
    who reads that calls in vain. So rank 0 invents a name, and tells it to everyone who shows by a word of its own that
    it is there now.
    """
    own = uuid.uuid4().hex
    if place.rank > 0:
        store.set(f"here/{place.rank}", own)
        store.wait([f"name for/{own}"], patience)
        name = store.get(f"name for/{own}").decode()
        store.set(f"{name}/known to/{place.rank}", "")
        return name
    missing, deadline = set(range(1, place.ranks)), time.monotonic() + patience.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise RuntimeError(f"rank {min(missing)} did not come")
        for rank in sorted(missing):
            if store.check([f"here/{rank}"]):  # perhaps a word of the dead; the living one's comes later
                store.set(f"name for/{store.get(f'here/{rank}').decode()}", own)
            if store.check([f"{own}/known to/{rank}"]):
                missing.remove(rank)
        time.sleep(POLL_SECONDS if missing else 0)
    return own


def _agree(about: dict[str, Any], own: Path, share: Share | SeedShare) -> int | None:
    """Compare what the processes are to train; where they go in step, find the last checkpoint that all of them have.

    Raises:
        RunError: Settings differ, or one process has finished and another cannot come to its end without it.
    """
    mine = {"about": about, "steps": _whole_checkpoints(own), "finished": (own / RESULT).exists()}
    all_of_them: list[Any] = [None] * share.place.ranks
    with expecting_the_others():
        dist.all_gather_object(all_of_them, mine)
    for rank, other in enumerate(all_of_them):
        refuse_other_settings(Path(f"rank {rank}"), about, other["about"])
    if not share.in_step:
        return None
    latest = max({0}.union(set.intersection(*(set(other["steps"]) for other in all_of_them))))
    if any(other["finished"] and max(other["steps"], default=0) > latest for other in all_of_them):
        raise RunError(f"{own.parent}: a process has finished and another has lost its end: start anew elsewhere")
    return latest


def _whole_checkpoints(folder: Path) -> list[int]:
    steps = []
    for step, path in checkpoint.standing(folder) if folder.is_dir() else []:
        try:
            checkpoint.read(path, step)
        except checkpoint.DamagedError:
            continue
        steps.append(step)
    return steps


def _on_own_device(execution: Execution) -> Execution:
    """On a machine with CUDA, each process has the device of its number there, or shares it with few others."""
    if execution.device != "auto" or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return execution
    return replace(execution, device=f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}")


def _bring(place: Place, folder: Path) -> None:
    """Send to rank 0 the run folders that it does not see, as those of other machines."""
    missing: list[Any] = [None]
    if place.rank == 0:
        missing = [[k for k in range(place.ranks) if not (rank_folder(folder, k) / RESULT).exists()]]
    with expecting_the_others():
        dist.broadcast_object_list(missing)
        for rank in missing[0]:
            if place.rank == rank:
                dist.send_object_list([_packed(rank_folder(folder, rank))], dst=0)
            elif place.rank == 0:
                received: list[Any] = [None]
                dist.recv_object_list(received, src=rank)
                _unpack(rank_folder(folder, rank), received[0])


def _packed(folder: Path) -> dict[str, Any]:
    """A finished run folder: its files, and those of its last checkpoint."""
    _, last = checkpoint.standing(folder)[-1]
    files = {name: (folder / name).read_bytes() for name in (SETTINGS, METRICS, RESULT)}
    return {"files": files, "checkpoint": last.name, "state": {path.name: path.read_bytes() for path in last.iterdir()}}


def _unpack(folder: Path, packed: dict[str, Any]) -> None:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder / packed["checkpoint"], packed["state"])
    for name, content in packed["files"].items():  # the result last: with it the folder is whole
        write_file(folder / name, content)
