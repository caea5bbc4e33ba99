"""From a recipe, its settings and an execution to what can be trained or evaluated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from beyondprop.checks import check_fields
from beyondprop.data import Batches, ImageSet, Splits, Statistics, hold_out
from beyondprop.errors import RunError, UserError
from beyondprop.recipe import Experiment, Recipe, Settings, SolverSettings
from beyondprop.rule import Rule, without_trace
from beyondprop.solver import Solver
from beyondprop.training import checkpoint
from beyondprop.training.evaluation import autocast, evaluate
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import read_result, read_settings


@dataclass
class LoadedRun:
    """A recipe with its data and its experiment on the device.

    Attributes:
        recipe, settings, execution: What it is made from.
        splits: The data; `train` is without the held-out images.
        validation: The held-out images, or None.
        experiment: What the recipe built.
        device: Where it is.
    """

    recipe: Recipe
    settings: SolverSettings
    execution: Execution
    splits: Splits
    validation: ImageSet | None
    experiment: Experiment
    device: torch.device
    statistics: Statistics

    @property
    def rule(self) -> Rule | Solver:
        """The experiment's rule, or its solver."""
        return self.experiment.rule

    def batches(self, images: ImageSet, *, training: bool = False) -> Batches:
        """Batches on the device, normalised by the training set's statistics.

        Args:
            images: One of the splits.
            training: Whether they are shuffled and augmented as the settings say.
        """
        augment = self.settings.augment if training and isinstance(self.settings, Settings) else "none"
        return Batches(
            images,
            self.settings.batch_size,
            shuffle=training,
            seed=self.execution.seed,
            augment=augment,
            statistics=self.statistics,
            device=self.device,
            channels_last=self.execution.channels_last,
        )

    def evaluate(self, images: ImageSet) -> dict[str, float]:
        """Accuracy and loss on a split, by the recipe's inference and the run's precision."""
        return evaluate(
            self.rule,
            self.batches(images),
            inference=self.experiment.inference,
            precision=self.execution.precision,
        )

    def measures(self, images: ImageSet) -> dict[str, Any]:
        """The recipe's own figures of the trained rule on a split, where it has any, in the run's precision."""
        if self.experiment.measures is None:
            return {}
        with without_trace(self.rule), autocast(self.device, self.execution.precision):
            return self.experiment.measures(self.batches(images))

    def files(self, images: ImageSet) -> Mapping[str, bytes]:
        """The recipe's own files about the trained rule on a split, where it has any, in the run's precision."""
        if self.experiment.files is None:
            return {}
        with without_trace(self.rule), autocast(self.device, self.execution.precision):
            return self.experiment.files(self.batches(images))


def assemble(recipe: Recipe, settings: SolverSettings, execution: Execution, splits: Splits | None = None) -> LoadedRun:
    """Load the data and build the experiment, on its device, with weights that depend on the seed alone.

    Args:
        recipe: Which.
        settings: Of the recipe's own class.
        execution: Where and how.
        splits: The data; by default what the recipe names.

    Raises:
        UserError: There is no such device, or the data or the settings are out of range.
    """
    device = resolve_device(execution.device)
    splits = splits or recipe.make_data(settings, execution.seed)
    validation = None
    if settings.validation:
        rest, validation = hold_out(splits.train, settings.validation, seed=execution.seed)
        splits = Splits(rest, splits.test)
    torch.manual_seed(execution.seed)
    experiment = recipe.build(settings, splits)
    experiment.rule.to(device)
    if execution.channels_last:
        nn.utils.convert_conv2d_weight_memory_format(experiment.rule, torch.channels_last)
    statistics = Statistics.of(splits.train)
    return LoadedRun(recipe, settings, execution, splits, validation, experiment, device, statistics)


def load_run(
    folder: str | os.PathLike[str], *, device: str | None = None, moved: Mapping[str, Any] | None = None
) -> LoadedRun:
    """Rebuild the experiment of a run folder with the weights of its newest checkpoint.

    Args:
        folder: Of a run that `train` has made.
        device: In place of the one that it was trained on.
        moved: Settings that say where something is, such as a chip, in place of the stored ones.

    Raises:
        RunError: The folder holds no run of a recipe, or no checkpoint, or one that is damaged or does not fit; or a
            solver's that has not been through all of its passes.
        UserError: The recipe or the device is not there.
    """
    path = Path(folder)
    stored = read_settings(path)
    if "rank" in stored:
        raise RunError(f"{path} holds a part of a network, trained by one of several processes: see {path.parent}")
    if moved:
        stored = {**stored, "settings": {**stored["settings"], **moved}}
    run = assemble_stored(path, stored, device=device)
    saved = checkpoint.load(path)
    if saved is None:
        if read_result(path) is not None:
            raise RunError(f"{path} has lost its checkpoint: restore it, or train anew in another folder")
        raise RunError(f"{path} holds no checkpoint yet: train first")
    saved.restore_model(run.rule)
    if isinstance(run.rule, Solver):
        done, passes = saved.state["totals"]["passes"], len(run.rule.passes)
        if done < passes:
            raise RunError(f"{path} holds a fit that has come through {done} of {passes} passes: go on with --resume")
    else:
        run.rule.stage = saved.state["stage"]
    return run


def require_recipe(path: Path, stored: dict[str, Any]) -> None:
    """Refuse a run of a loop of the user's own, which no recipe describes.

    Raises:
        RunError: It is one.
    """
    if "recipe" not in stored:
        raise RunError(f"{path} was not trained from a recipe: build its network and load the checkpoint's weights")


def assemble_stored(
    path: Path, stored: dict[str, Any], *, device: str | None = None, splits: Splits | None = None
) -> LoadedRun:
    """Build the experiment of a run folder anew, with weights as at the start of its training.

    Args:
        path: The folder, for errors.
        stored: Its settings, as `read_settings` gives them.
        device: In place of the one that it was trained on.
        splits: The data; by default what the recipe names.

    Raises:
        RunError: It was not trained from a recipe, or by another version.
        UserError: The recipe or the device is not there.
    """
    from beyondprop.catalogue import find_recipe  # noqa: PLC0415  # the catalogue stands above training

    require_recipe(path, stored)
    recipe = find_recipe(stored["recipe"])
    settings, execution = (
        restore_settings(recipe.settings, stored.get("settings"), path),
        restore_settings(Execution(), stored.get("execution"), path),
    )
    return assemble(recipe, settings, execution if device is None else replace(execution, device=device), splits)


def resolve_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        UserError: There is none of this name on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no device named {name!r}: use auto, cpu, cuda or cuda:NUMBER") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda" and device.index is not None and 0 < torch.cuda.device_count() <= device.index:
        raise UserError(f"device {name!r} is not there: this machine has {torch.cuda.device_count()} cuda device(s)")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device {name!r} is not available here: use cpu, or auto for the fastest there is") from None
    return device


def make_optimizer(rule: Rule, settings: Settings) -> Optimizer:
    """AdamW over the rule's groups; a group's own settings win."""
    groups = rule.parameter_groups()
    parameters = [parameter for group in groups for parameter in group["params"]]
    # One kernel a step: what CPU and CUDA have for real numbers.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)


def make_scheduler(optimizer: Optimizer, name: str, steps: int, stages: int = 1) -> LRScheduler | None:
    """How the learning rate moves.

    Args:
        optimizer: Its groups' learning rates are the highest ones.
        name: `"constant"`, `"one-cycle"`, or to zero by `"cosine"` or `"linear"`.
        steps: Batches of the whole training.
        stages: As many times it begins anew, after equal numbers of steps.

    Raises:
        UserError: There is no schedule of this name.
    """
    if name == "constant":
        return None
    if stages > 1:
        highest = [group["lr"] for group in optimizer.param_groups]
        parts = list[LRScheduler]()
        for _ in range(stages):
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = rate  # a schedule that is made sets it to where it begins
            part = make_scheduler(optimizer, name, steps // stages)
            assert part is not None
            parts.append(part)
        return SequentialLR(optimizer, parts, [steps // stages * number for number in range(1, stages)])
    if name == "one-cycle":
        groups = optimizer.param_groups
        momentum = all("betas" in group or group["momentum"] > 0 for group in groups)  # or it would be given one
        return OneCycleLR(
            optimizer, max_lr=[group["lr"] for group in groups], total_steps=steps, cycle_momentum=momentum
        )
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if name == "linear":
        return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
    raise UserError(f"lr_schedule must be constant, one-cycle, cosine or linear, not {name!r}")


def restore_settings(defaults: Any, stored: Any, folder: Path) -> Any:
    """A settings object from JSON, which knows lists only where the dataclass has tuples.

    Raises:
        RunError: They are damaged, or those of another version.
    """
    if not isinstance(stored, dict):
        raise RunError(f"{folder} cannot be built with its settings: they are damaged; restore them, or start anew")
    unknown = stored.keys() - {f.name for f in fields(defaults)}
    if unknown:
        raise RunError(f"{folder} was made by another version: it has a setting {sorted(unknown)[0]!r}")
    values = {n: tuple(v) if isinstance(getattr(defaults, n), tuple) else v for n, v in stored.items()}
    restored = replace(defaults, **values)
    try:
        check_fields(restored)
    except UserError as error:
        raise RunError(f"{folder} cannot be built with its settings ({error}): restore them, or start anew") from error
    return restored
