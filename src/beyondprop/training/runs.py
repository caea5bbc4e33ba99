"""A whole run of a recipe: build, train, evaluate, write down."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from beyondprop.checks import check_fields
from beyondprop.data import ImageSet, Splits
from beyondprop.errors import UserError
from beyondprop.recipe import Recipe, Settings, SolverSettings
from beyondprop.solver import Solver
from beyondprop.training.assembly import LoadedRun, assemble, make_optimizer, make_scheduler
from beyondprop.training.curves import draw_curves
from beyondprop.training.execution import Execution
from beyondprop.training.loop import FitResult, fit
from beyondprop.training.provenance import cpu_model, device_name
from beyondprop.training.run_folder import RunFolder
from beyondprop.training.solving import solve
from beyondprop.training.trainer import Team

MOST_TRAINING_IMAGES = 10_000  # on which the training accuracy is measured at the end, from all over the set


@dataclass(frozen=True)
class Outcome:
    """What a finished run has come to.

    Attributes:
        metrics: `test_accuracy` (of the last epoch), `train_accuracy` (on at most 10000 images), `validation_accuracy`
            where images were held out, all in 0..1; for regression `test_mse` and so on, mean squared errors; of a
            rule that measures itself its own figures, without `test_` in their names; and the experiment's own
            measures.
        folder: The run folder.
        train_seconds: Spent in training steps, over all pieces of the run.
        images_per_second: Training images, over the same time.
        peak_memory_bytes: Of torch on cuda; elsewhere the peak resident set of the whole process.
        commits: Of the library's source, every one that trained part of the run.
    """

    metrics: dict[str, Any]
    folder: Path
    train_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    commits: list[str]


def train(
    recipe: Recipe,
    settings: SolverSettings,
    execution: Execution,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    splits: Splits | None = None,
    checkpoint_seconds: float = 120.0,
    tensorboard: bool = False,
    alignment_every: int = 0,
    gauss_newton_every: int = 0,
) -> Outcome:
    """Train a recipe to its last epoch, or fit its solver; evaluate it on the test images and write the run folder.

    Args:
        recipe: Which.
        settings: Of the recipe's own class.
        execution: Where and how, and the seed.
        folder: The run folder.
        resume: Whether to go on with what the folder holds; a finished run gives its outcome at once.
        progress: Whether to show progress on stderr.
        splits: The data; by default what the recipe names.
        checkpoint_seconds: As in `fit`; a solver's fit is saved after every pass, and then alone.
        tensorboard: As in `fit`; not for a solver.
        alignment_every: As in `fit`; not for a solver.
        gauss_newton_every: Likewise.

    Raises:
        RunError: The folder cannot be used (see `RunFolder`), or the disk becomes full.
        NonFiniteError: A loss is NaN or infinite; the last checkpoint is whole.
        UserError: Settings, device or data cannot be used.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is saved.
    """
    check_fields(settings, execution)
    settings = settings.of_run()
    about = {"recipe": recipe.id, "settings": asdict(settings), "execution": asdict(execution)}
    with RunFolder(folder, about, resume=resume) as run, use_processor(execution.threads):
        if run.result is None:
            built = assemble(recipe, settings, execution, splits)
            fitted = fit_experiment(
                built,
                run,
                progress=progress,
                checkpoint_seconds=checkpoint_seconds,
                tensorboard=tensorboard,
                alignment_every=alignment_every,
                gauss_newton_every=gauss_newton_every,
            )
            write_outcome(run, built, cost_of(fitted))
        return outcome_of(run)


def fit_experiment(
    built: LoadedRun,
    run: RunFolder,
    *,
    progress: bool,
    checkpoint_seconds: float,
    tensorboard: bool,
    alignment_every: int = 0,
    gauss_newton_every: int = 0,
    team: Team | None = None,
) -> FitResult:
    """Train what a recipe has built to its last epoch, by its optimizer and schedule; arguments as in `fit`."""
    rule, settings, experiment = built.rule, built.settings, built.experiment
    batches = built.batches(built.splits.train, training=True)
    if built.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(built.device)
    if progress:
        sys.stderr.write(f"{what_is_trained(built, len(batches))}\n")
    if isinstance(rule, Solver):
        if tensorboard or alignment_every or gauss_newton_every:
            raise UserError(
                f"{built.recipe.id} is solved, not stepped: it has no curves for TensorBoard and no updates to compare "
                "with gradients; leave --tensorboard, --alignment-every and --gauss-newton-every out"
            )
        return solve(rule, batches, precision=built.execution.precision, run=run, progress=progress)
    assert isinstance(settings, Settings), "a recipe of a rule has Settings"
    optimizer = experiment.optimizer or make_optimizer(rule, settings)
    return fit(
        rule,
        batches,
        optimizer=optimizer,
        epochs=settings.epochs,
        scheduler=make_scheduler(
            optimizer,
            settings.lr_schedule,
            len(batches) * len(rule.passes(settings.epochs)),
            # A stage that begins has learned nothing while others were trained.
            len(rule.stages) if rule.stage_span == "training" else 1,
        ),
        validation=built.batches(built.validation) if built.validation is not None else None,
        inference=experiment.inference,
        precision=built.execution.precision,
        ema=settings.ema,
        run=run,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
        tensorboard=tensorboard,
        alignment_every=alignment_every,
        gauss_newton_every=gauss_newton_every,
        callbacks=experiment.callbacks,
        team=team,
    )


def what_is_trained(built: LoadedRun, batches: int) -> str:
    """What a training is about, in a line like those of its epochs: its size, its data and how long it goes on.

    Args:
        built: What is trained.
        batches: In a pass over the data.
    """
    rule, settings = built.rule, built.settings
    if isinstance(rule, Solver):
        passes = len(rule.passes)
    else:
        assert isinstance(settings, Settings), "a recipe of a rule has Settings"
        passes = len(rule.passes(settings.epochs))
    figures = {
        "parameters": sum(parameter.numel() for parameter in rule.parameters()),  # a solver's come when it is fitted
        "training samples": len(built.splits.train),
        "held out": 0 if built.validation is None else len(built.validation),
        "batches a pass": batches,
        "passes": passes,
    }
    told = [f"{name} {figure:,}" for name, figure in figures.items() if figure]
    return "  ".join([built.recipe.id, *told, f"seed {built.execution.seed}", device_name(built.device)])


def cost_of(fitted: FitResult) -> dict[str, Any]:
    """What a training took, as result.json has it."""
    return {
        "train_seconds": fitted.seconds,
        "images_per_second": fitted.images_per_second,
        "peak_memory_bytes": fitted.peak_memory_bytes,
    }


def write_outcome(run: RunFolder, built: LoadedRun, about: dict[str, Any]) -> None:
    """Measure the trained rule and finish the run folder: curves and result.json, which has `about` in it."""
    records = run.metrics()
    metrics = _final_metrics(built)
    if built.experiment.course is not None:
        metrics |= built.experiment.course([record for record in records if "seconds" in record])
    if any("loss" in record for record in records):  # a solver has none to draw
        run.write_curves(draw_curves(records, f"{built.recipe.id}: {' '.join(headline(metrics))}"))
    for name, content in built.files(built.splits.test).items():
        run.write(name, content)
    run.write_result(
        {
            **run.settings,
            "metrics": metrics,
            "device": device_name(built.device),
            "threads": torch.get_num_threads(),
            "cpu": cpu_model(),
            **about,
        }
    )


def _final_metrics(built: LoadedRun) -> dict[str, Any]:
    """Accuracies by the experiment's inference, then its own measures; the last epoch's weights (or average)."""
    train_images = built.splits.train
    count = len(train_images)
    splits: dict[str, ImageSet | None] = {
        "test": built.splits.test,
        "train": train_images.subset(range(0, count, -(-count // MOST_TRAINING_IMAGES))),
        "validation": built.validation,
    }
    metrics: dict[str, Any] = {}
    for name, images in splits.items():
        if images is not None:
            metrics |= _named(built.evaluate(images), name)
    return metrics | built.measures(built.splits.test)


def _named(figures: dict[str, float], split: str) -> dict[str, float]:
    """The figures of a split that results tell; those of a `Measured` rule keep their names on the test split.

    >>> _named({"accuracy": 0.9, "loss": 0.1, "count": 5}, "test"), _named({"loss": 0.1, "count": 5}, "train")
    ({'test_accuracy': 0.9}, {'train_mse': 0.1})
    """
    if "accuracy" in figures:
        return {f"{split}_accuracy": figures["accuracy"]}
    own = {name: value for name, value in figures.items() if name not in ("loss", "count")}
    if not own:
        return {f"{split}_mse": figures["loss"]}
    return own if split == "test" else {f"{split}_{name}": value for name, value in own.items()}


def headline(metrics: dict[str, Any]) -> tuple[str, str]:
    """The figure of a finished run that counts first, by its name.

    >>> headline({"test_accuracy": 0.9312}), headline({"test_mse": 0.01234})
    (('test accuracy', '93.12 %'), ('test error', '0.01234 (mean squared)'))
    """
    if "test_accuracy" in metrics:
        return "test accuracy", f"{100 * metrics['test_accuracy']:.2f} %"
    if "test_mse" in metrics:
        return "test error", f"{metrics['test_mse']:.4g} (mean squared)"
    name, value = next(iter(metrics.items()))  # of a rule that measures itself, what it tells first
    return f"test {name}", f"{value:.4g}"


def outcome_of(run: RunFolder) -> Outcome:
    """What a finished run has come to."""
    result = run.result or {}
    return Outcome(
        metrics=result["metrics"],
        folder=run.path,
        train_seconds=result["train_seconds"],
        images_per_second=result["images_per_second"],
        peak_memory_bytes=result["peak_memory_bytes"],
        commits=result["commits"],
    )


@contextmanager
def use_processor(threads: int | None) -> Iterator[None]:
    """Use so many threads, and zero for numbers below the smallest normal one; then all as it was before.

    Processors take many times as long for such numbers. Signals that vanish through hundreds of time steps are
    full of them: on 784 steps both back-propagation and targets take five times as long without this.
    """
    former, flushing = torch.get_num_threads(), flushes_denormals()
    torch.set_flush_denormal(True)  # before threads are made, which take it over
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(former)
        torch.set_flush_denormal(flushing)


def flushes_denormals() -> bool:
    """Whether torch takes numbers below the smallest normal one for zero, which it does not tell."""
    return not bool(torch.tensor(1e-310, dtype=torch.float64) * 1)
