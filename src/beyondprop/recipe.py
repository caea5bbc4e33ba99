"""What a recipe is: settings whose defaults are the paper's, and a function that builds the experiment from them.

This module and every recipe stay free of torch until an experiment is built, so that `--help` and `list` answer at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from beyondprop.data import Splits
    from beyondprop.rule import Rule
    from beyondprop.solver import Solver
    from beyondprop.training.callbacks import Callback

Schedule = Literal["constant", "one-cycle", "cosine", "linear"]


@dataclass(frozen=True, kw_only=True)
class SolverSettings:
    """Settings that every recipe has; a solver's has no others but its own, for it takes no steps."""

    batch_size: int = 128
    """Images in a batch."""
    validation: int = 0
    """Images held out of the training set to choose settings by; 0 trains on all of it."""

    def of_run(self) -> Self:
        """These, as a run stores them: a file that they name is told by its whole path and by what it holds."""
        return self

    @property
    def missing(self) -> str:
        """The flag that a command cannot do without, where there is one."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Settings(SolverSettings):
    """Settings that every recipe of a stepped rule has; a recipe adds its own."""

    epochs: int
    """Passes over the training set."""
    learning_rate: float = 1e-3
    """Of the optimizer; the highest one where a schedule moves it."""
    weight_decay: float = 1e-3
    """Decoupled (AdamW)."""
    lr_schedule: Schedule = "constant"
    """How the learning rate moves over the run, step by step."""
    augment: Literal["none", "flip", "crop-flip", "crop-flip-cutout"] = "none"
    """Random changes to the training images."""
    ema: float = 0.0
    """Decay of the moving average of the weights that predicts in their place, such as 0.995; 0 for none."""


@dataclass
class Experiment:
    """What a recipe builds: a rule, how it predicts, and what else is worth knowing about it once it is trained."""

    rule: Rule | Solver
    inference: dict[str, Any] = field(default_factory=dict)
    """Options of the call `rule(x, **inference)` by which the reported accuracy is measured."""
    measures: Callable[[Iterable[tuple[Tensor, Tensor]]], dict[str, Any]] | None = None
    """Further figures of the trained rule on a split: names to floats or lists of floats."""
    course: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]] | None = None
    """Further figures of how the training went, from its epochs' records, as metrics.jsonl has them."""
    files: Callable[[Iterable[tuple[Tensor, Tensor]]], Mapping[str, bytes]] | None = None
    """Further files for the folder of a finished run, by name, made by the trained rule from the test split."""
    optimizer: Optimizer | None = None
    """Of a rule, where the paper has another than AdamW with the settings' learning rate and weight decay."""
    callbacks: Sequence[Callback] = ()
    """Called around every step of the training."""


@dataclass(frozen=True)
class Published:
    """A figure as a paper prints it; accuracies in 0..1."""

    values: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Recipe:
    """One experiment of one system.

    Args:
        id: `SYSTEM/VARIANT`.
        summary: One line for `beyondprop list`.
        dataset: Name of the data set, as `beyondprop.data` knows it.
        settings: The defaults, which are the paper's where there is one; `Settings`, or `SolverSettings` of a solver.
        build: Makes the experiment from settings and the data (torch is imported only here).
        paper: The paper's own figures for given settings, or None where it has none.
        choices: What the experiment settles where the paper is silent or says something else, for given settings; every
            table prints it.
        variants: Fields by which the paper itself varies the experiment: another value is no departure.
        inference: Fields that only tell how the trained rule predicts: `beyondprop evaluate` can change them.
        data: Makes the data from the settings, in place of loading a named set.
        drawn: Likewise, from the settings and the seed: other data for every seed.
    """

    id: str
    summary: str
    dataset: str
    settings: SolverSettings
    build: Callable[[Any, Splits], Experiment]
    paper: Callable[[Any], Published | None] = lambda _settings: None
    choices: Callable[[Any], tuple[str, ...]] = lambda _settings: ()
    variants: tuple[str, ...] = ()
    inference: tuple[str, ...] = ()
    data: Callable[[Any], Splits] | None = None
    drawn: Callable[[Any, int], Splits] | None = None

    def make_data(self, settings: SolverSettings, seed: int) -> Splits:
        """The data of a run: drawn, made or loaded by name."""
        if self.drawn is not None:
            return self.drawn(settings, seed)
        if self.data is not None:
            return self.data(settings)
        from beyondprop.data import load

        return load(self.dataset)

    def departures_of(self, settings: SolverSettings) -> list[str]:
        """List how a run with these settings differs from the paper: its choices, then each changed field."""
        changed = [
            f"{f.name.replace('_', ' ')} {getattr(settings, f.name)} (default {getattr(self.settings, f.name)})"
            for f in fields(settings)
            if f.name not in self.variants and getattr(settings, f.name) != getattr(self.settings, f.name)
        ]
        return [*self.choices(settings), *changed]
