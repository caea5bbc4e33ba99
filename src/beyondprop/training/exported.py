"""A trained rule as it is shared: weights and a description, from which the catalogue's recipe builds it again.

What is read is numbers and words alone. Nothing in an export is executed, and none of its words names a file, an
address or a class: settings go to the recipe of that name in the catalogue, and weights to what that builds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from beyondprop.data import DescribedSet, ImageSet, SequenceSet, Splits, Statistics, image_set
from beyondprop.errors import RunError, UserError
from beyondprop.recipe import Recipe
from beyondprop.rule import Rule, evaluating
from beyondprop.solver import Solver
from beyondprop.training.assembly import LoadedRun, assemble_stored
from beyondprop.training.checkpoint import Checkpoint
from beyondprop.training.evaluation import PRECISIONS, autocast
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import MOVABLE

FORMAT = 1
ABOUT, WEIGHTS = "export.json", "model.safetensors"
OUTSIDE = tuple(name.removeprefix("settings.") for name in MOVABLE if name.startswith("settings."))
ROUNDING = 1e-3  # by so much may resampled pixels leave 0..1
MOST = 10**7  # samples, classes or pixels along a side of a data set that is described

_PARTS: dict[str, type] = {
    "recipe": str,
    "settings": dict,
    "execution": dict,
    "weights": dict,
    "runs": list,
    "versions": dict,
    "commits": list,
}


@dataclass(frozen=True)
class Exported:
    """A trained rule that was shared.

    Attributes:
        recipe: Of which it was trained.
        rule: With its weights, in evaluation mode.
        about: What export.json says of it: settings, data, figures of each seed, versions.
    """

    recipe: Recipe
    rule: Rule | Solver
    about: dict[str, Any]
    built: LoadedRun

    def predict(self, x: Any) -> Tensor:
        """Class scores, or values, as the recipe predicts them.

        Args:
            x: Images or vectors as the recipe's data set has them, uint8, or floating point of pixels in 0..1; they are
                normalised here. Or sequences, as its data have them.

        Returns:
            Shape (N, ...), on the CPU.

        Raises:
            UserError: x is no array of numbers, of another shape than the data, out of its range, or holds NaN.
        """
        x, data = self._as_samples(x), self.built.splits.train
        if isinstance(data, SequenceSet):
            given: ImageSet = replace(
                data, images=x.float(), labels=data.labels[:1].expand(len(x), *data.labels.shape[1:])
            )
        else:
            given = image_set(x, torch.zeros(len(x), dtype=torch.int64), classes=data.classes, name="x")
            given = replace(given, high=data.high if given.high else None)
            if given.images.shape[1:] != data.images.shape[1:]:
                shape, wanted = (tuple(images.shape[1:]) for images in (given.images, data.images))
                raise UserError(f"{self.recipe.id} takes samples of shape {wanted}, not {shape}")
            self._refuse_other_range(given, data.high)
        return scores_of(self.built, given)

    def _as_samples(self, x: Any) -> Tensor:
        try:
            samples = torch.as_tensor(x)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.recipe.id} takes samples as an array of numbers ({error})") from error
        if samples.ndim == 0:
            raise UserError(f"{self.recipe.id} takes samples, the first dimension counting them, not the number {x}")
        return samples

    def _refuse_other_range(self, given: ImageSet, high: int | None) -> None:
        """Pixels on another scale would be predicted, and wrongly. A set without a largest value has no range."""
        if high is None:
            return
        most = given.high or 1
        low, top = float(given.images.min()), float(given.images.max())
        if low < -ROUNDING or top > most + ROUNDING:
            raise UserError(
                f"{self.recipe.id} takes pixels as uint8 in 0..{high} or as floating point in 0..1, and these are "
                f"{'uint8' if given.high else 'floating point'} in {low:g}..{top:g}: scale them"
            )


def scores_of(run: LoadedRun, images: ImageSet) -> Tensor:
    """What a rule says of some samples by the recipe's inference and the run's precision, on the CPU."""
    options = run.experiment.inference
    with evaluating(run.rule), torch.inference_mode(), autocast(run.device, run.execution.precision):
        return torch.cat([run.rule(x, **options).float().cpu() for x, _ in run.batches(images)])


def load_exported(folder: str | os.PathLike[str], *, device: str = "auto") -> Exported:
    """Build a trained rule from a folder that `beyondprop export` has written; its data set need not be there.

    Args:
        folder: The export.
        device: Where the rule is to be.

    Raises:
        RunError: The folder holds no export, or one of a newer version, or one that is truncated or was changed; or its
            weights do not fit what its recipe builds.
        UserError: The catalogue has no such recipe, or there is no such device.
    """
    path = Path(folder)
    about = read_about(path)
    return rebuild(path, about, read_weights(path, about), device=device)


def load_exported_run(folder: str | os.PathLike[str], *, device: str = "auto") -> LoadedRun:
    """The same with the recipe's data, to measure it on them; raises as `load_exported`, or where data are missing."""
    path = Path(folder)
    about = read_about(path)
    weights = read_weights(path, about)
    return _restored(path, about, weights, _assembled(path, about, device, None))


def rebuild(path: Path, about: dict[str, Any], weights: dict[str, Tensor], *, device: str) -> Exported:
    """From what export.json says and the weights to the rule; raises as `load_exported`."""
    described = about.get("data")
    splits = None
    if described is not None:
        test = {**described, "samples": described["test_samples"]}
        splits = Splits(DescribedSet.of(described), DescribedSet.of(test))
        about_built = {**about, "settings": {**about["settings"], "validation": 0}}  # there is nothing to hold out
    else:
        about_built = about
    run = _restored(path, about, weights, _assembled(path, about_built, device, splits))
    run.rule.eval()
    return Exported(run.recipe, run.rule, about, run)


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export, whole or not."""
    return (folder / ABOUT).exists()


def describe(splits: Splits, statistics: Statistics) -> dict[str, Any]:
    """A named data set as export.json describes it; of the images held out nothing is told."""
    images = splits.train
    return {
        "name": images.name,
        "samples": len(images),
        "test_samples": len(splits.test),
        "shape": list(images.images.shape[1:]),
        "dtype": str(images.images.dtype).removeprefix("torch."),
        "high": images.high,
        "classes": images.classes,
        "mean": statistics.mean.tolist(),
        "std": statistics.std.tolist(),
    }


def table_of(weights: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Type and shape of each tensor, by name."""
    return {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in weights.items()
    }


def read_about(folder: Path) -> dict[str, Any]:
    """What export.json says, checked as far as it can be without the recipe.

    Raises:
        RunError: There is none, it is damaged, of a newer version, or its settings name something outside of it.
    """
    path = folder / ABOUT
    try:
        about: Any = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no export: there is no {ABOUT}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): fetch the export again") from error
    written = about.get("format") if isinstance(about, dict) else None
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise RunError(f"{path} is no export of beyondprop, or damaged: it names no format")
    if written > FORMAT:
        raise RunError(
            f"{path} was written by a newer beyondprop, in format {written}, and this one reads up to {FORMAT}: "
            "install a newer one"
        )
    wrong = next((name for name, kind in _PARTS.items() if not isinstance(about.get(name), kind)), None)
    if wrong is None and about.get("data") is not None and not _is_description(about["data"]):
        wrong = "data"
    if wrong is None and not (
        isinstance(about["weights"].get("sha256"), str) and isinstance(about["weights"].get("tensors"), dict)
    ):
        wrong = "weights"
    if wrong is not None:
        raise RunError(f"{path} is damaged: its {wrong!r} is missing or wrong; fetch the export again")
    precision = about["execution"].get("precision", Execution.precision)
    if precision not in PRECISIONS:
        raise RunError(f"{path} is damaged: its precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    refuse_outside(path, about["settings"])
    return about


def refuse_outside(path: Path, settings: dict[str, Any]) -> None:
    """Refuse settings by which a recipe would read files or open connections.

    Raises:
        RunError: One names something.
    """
    named = next((name for name in OUTSIDE if isinstance(settings.get(name), str) and settings[name]), None)
    if named is not None:
        raise RunError(
            f"{path}: its setting {named!r} names what is not in it, and an export has to be whole: share the run "
            "folder and that instead"
        )


def read_weights(folder: Path, about: dict[str, Any]) -> dict[str, Tensor]:
    """The weights, if they are those that export.json tells of.

    Raises:
        RunError: They are missing, truncated, changed, or others.
    """
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): fetch the export again") from error
    if hashlib.sha256(content).hexdigest() != about["weights"]["sha256"]:
        raise RunError(f"{path} is truncated or was changed: its checksum is not that of {ABOUT}; fetch it again")
    try:
        weights: dict[str, Tensor] = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read ({error}): fetch the export again") from error
    found, told = table_of(weights), about["weights"]["tensors"]
    for name in sorted(found.keys() | told.keys()):
        if found.get(name) != told.get(name):
            raise RunError(f"{path} does not fit {ABOUT}: {name!r} is {_in_words(found, name)}, not {told.get(name)}")
    return weights


def _in_words(found: dict[str, Any], name: str) -> str:
    return str(found.get(name, "not there"))


def _assembled(path: Path, about: dict[str, Any], device: str, splits: Splits | None) -> LoadedRun:
    """Build the recipe; what a changed setting breaks in it is told in one line."""
    try:
        return assemble_stored(path, about, device=device, splits=splits)
    except UserError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RunError(f"{path}: its recipe {about['recipe']!r} cannot be built with its settings: {reason}") from error


def _restored(path: Path, about: dict[str, Any], weights: dict[str, Tensor], run: LoadedRun) -> LoadedRun:
    """Put the weights into what was built.

    Raises:
        RunError: They are those of another network.
    """
    built = run.rule.state_dict()
    for name, tensor in weights.items():
        if name in built and built[name].dtype != tensor.dtype:
            raise RunError(f"{path / WEIGHTS}: {name!r} is {tensor.dtype}, and its recipe has {built[name].dtype}")
    try:
        Checkpoint(0, dict(weights), {}).restore_model(run.rule)
    except RunError as error:
        raise RunError(f"{path / WEIGHTS}: {error}") from error
    if isinstance(run.rule, Rule):
        run.rule.stage = about.get("stage")
    return run


def _is_description(data: Any) -> bool:
    """Whether this is what `describe` gives."""
    if not isinstance(data, dict) or data.keys() != {
        *("name", "samples", "test_samples", "shape", "dtype", "high", "classes", "mean", "std")
    }:
        return False
    shape, channels = data["shape"], data["mean"]
    sizes = isinstance(shape, list) and len(shape) in {1, 3} and all(_is_count(size) for size in shape)
    return (
        sizes
        and isinstance(data["name"], str)
        and _is_count(data["samples"])
        and _is_count(data["test_samples"])
        and _is_count(data["classes"])
        and data["dtype"] in ["uint8", "float32"]
        and (data["high"] is None or _is_count(data["high"]))
        and all(isinstance(data[name], list) and len(data[name]) == shape[0] for name in ("mean", "std"))
        and all(isinstance(value, float) and math.isfinite(value) for value in (*channels, *data["std"]))
        and all(value >= 0 for value in data["std"])
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
