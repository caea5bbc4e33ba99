"""`beyondprop train [RECIPE]`."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beyondprop import parallel, training
from beyondprop.catalogue import find_recipe
from beyondprop.checks import check
from beyondprop.cli.arguments import parse, some_settings, split_recipe, with_examples
from beyondprop.cli.output import in_figures, in_words, note, say, say_json, told_how_to_go_on
from beyondprop.cli.runs import holds_run
from beyondprop.errors import UserError
from beyondprop.reproduce import runs_root
from beyondprop.training.execution import Execution

DEFAULT = "noprop-dt/digits"

HELP = f"""Trains a recipe once and measures it on the test split at the end. Settings, metrics, checkpoint and
curves go to a run folder; an interrupted run goes on from its last checkpoint with --resume. The recipe comes first
and decides which flags there are (default: {DEFAULT}; `beyondprop list` names them all)."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the run goes and what is printed."""

    out: Path | None = None
    """Run folder; by default a new one under $BEYONDPROP_RUNS or the user's cache folder."""
    resume: bool = False
    """Go on with the run in the folder; without --out with the latest of this recipe and seed."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard as well."""
    alignment_every: int = 0
    """Every so many steps compare each layer's update with back-propagation's gradient; 0 never does."""
    gauss_newton_every: int = 0
    """Every so many steps compare it with the Gauss-Newton update, and tell its part that moves no output; 0 never."""
    json: bool = False
    """Print the outcome as one JSON object on the last line of stdout."""
    quiet: bool = False
    """Show no progress and no summary."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Several processes for one training of blocks that learn alone. torchrun gives rank and ranks by itself."""

    rank: int | None = None
    """Started by hand: number of this process, from 0."""
    ranks: int | None = None
    """Started by hand: how many there are; `beyondprop merge` makes one run of theirs."""
    data_parallel: int = 1
    """Processes that divide each batch of a block among them."""


def run(argv: list[str]) -> None:
    """Run the command."""
    recipe_id, flags = split_recipe(argv, DEFAULT)
    recipe = find_recipe(recipe_id)
    _, given = parse(
        flags,
        f"beyondprop train {recipe_id}",
        with_examples(HELP, "train", recipe, "", some_settings(recipe), "--out runs/mine --resume"),
        recipe=recipe.settings,
        execution=Execution(),
        output=Output(),
        processes=Processes(),
    )
    output, processes = given.output, given.processes
    check(
        alignment_every=output.alignment_every, gauss_newton_every=output.gauss_newton_every
    )  # before a folder is made
    place = parallel.find_place(
        os.environ, rank=processes.rank, ranks=processes.ranks, replicas=processes.data_parallel
    )
    if place is not None:
        _run_share(recipe, given, place, flags)
        return
    folder = output.out or default_folder(recipe_id, given.execution.seed, resume=output.resume)
    if output.resume and not holds_run(folder):
        note(f"{folder} holds no run to go on with: this one begins anew")
    again = ["beyondprop", "train", recipe_id, *flags]
    again += [] if output.out else ["--out", str(folder)]
    again += [] if output.resume else ["--resume"]
    try:
        outcome = training.train(
            recipe,
            given.recipe,
            given.execution,
            folder,
            resume=output.resume,
            progress=not output.quiet,
            tensorboard=output.tensorboard,
            alignment_every=output.alignment_every,
            gauss_newton_every=output.gauss_newton_every,
        )
    except KeyboardInterrupt as interrupt:
        raise told_how_to_go_on(interrupt, f"go on with: {shlex.join(again)}") from None
    if output.json:
        chosen = {"settings": asdict(given.recipe), "execution": asdict(given.execution)}
        say_json({"recipe": recipe_id, **chosen, **report(outcome)})
    elif not output.quiet:
        summarise(outcome)


def _run_share(recipe: Any, given: Any, place: parallel.Place, flags: list[str]) -> None:
    """Train the part of one of several processes; rank 0 speaks for all that torchrun has started."""
    output: Output = given.output
    for flag, every in (("alignment", output.alignment_every), ("gauss-newton", output.gauss_newton_every)):
        if every:
            raise UserError(f"--{flag}-every needs the whole network in one process: leave it out, or train in one")
    # One name that all processes find by themselves; a run that stands there already is told.
    folder = output.out or runs_root() / recipe.id / f"seed-{given.execution.seed}-by-{place.ranks}"
    speaks = place.rank == 0 or place.by_hand
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    name = f"rank {place.rank}"
    try:
        outcome = parallel.train(
            recipe,
            given.recipe,
            given.execution,
            folder,
            place,
            resume=output.resume or restarted,
            progress=speaks and not output.quiet,
            tensorboard=output.tensorboard,
        )
    except UserError as error:
        raise type(error)(f"{name}: {error}") from error
    except KeyboardInterrupt as interrupt:
        way = "once torchrun has ended, the same torchrun command goes on with --resume" if speaks else ""
        if place.by_hand:
            again = ["beyondprop", "train", recipe.id, *flags, *([] if output.resume else ["--resume"])]
            way = f"go on with: {shlex.join(again)}"
        raise KeyboardInterrupt(f"{name}: {told_how_to_go_on(interrupt, way)}") from None
    if outcome is None:
        if place.by_hand and not output.quiet:
            merge = shlex.join(["beyondprop", "merge", str(folder)])
            say(f"{name} of {place.ranks} has finished; when all have: {merge}")
    elif output.json:
        chosen = {"settings": asdict(given.recipe), "execution": asdict(given.execution)}
        say_json({"recipe": recipe.id, **chosen, **report(outcome)})
    elif not output.quiet:
        summarise(outcome)


def default_folder(recipe_id: str, seed: int, *, resume: bool) -> Path:
    """The next free run folder of a recipe and seed, or the latest one that is there where it is to be resumed."""
    first = runs_root() / recipe_id / f"seed-{seed}"
    number, latest, free = 1, first, first
    while free.exists():
        number, latest = number + 1, free
        free = first.with_name(f"{first.name}-{number}")
    return latest if resume else free


def report(outcome: Any) -> dict[str, Any]:
    """An outcome as JSON takes it."""
    return {**asdict(outcome), "folder": str(outcome.folder)}


def summarise(outcome: Any) -> None:
    """Print what came out of a finished run, as `training.train` or `parallel.merge` gives it, and what can follow."""
    # They import torch.
    from beyondprop.training.checkpoint import standing  # noqa: PLC0415
    from beyondprop.training.runs import headline  # noqa: PLC0415

    folder, (name, figure) = Path(outcome.folder), headline(outcome.metrics)
    say(f"{name:14} {figure}")
    for name, value in outcome.metrics.items():  # what the recipe measures besides
        if isinstance(value, float) and not name.startswith(("test_", "train_", "validation_")):
            say(f"{in_words(name):14} {in_figures(name, value)}")
    say(f"time           {outcome.train_seconds:.1f} s, {outcome.images_per_second:.0f} samples/s")
    say(f"run folder     {folder}")
    for picture in sorted(folder.glob("*.png")):
        beside = " and .csv" if picture.with_suffix(".csv").exists() else ""
        say(f"{picture.stem.replace('-', ' '):14} {picture}{beside}")
    if (folder / "sample.txt").exists():
        say(f"sample         {folder / 'sample.txt'}")
    if standing(folder):
        say(f"evaluate       {shlex.join(['beyondprop', 'evaluate', str(folder)])}")
    else:
        say("checkpoint     lost: this run can be neither evaluated nor exported")
