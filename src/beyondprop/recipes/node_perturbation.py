"""Perturbed nodes, weights and activities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Recipe
from beyondprop.recipes import sequences
from beyondprop.recipes.classifiers import NetworkSettings
from beyondprop.recipes.classifiers import builder as classifier

if TYPE_CHECKING:
    from beyondprop.networks.recurrent import Recurrent
    from beyondprop.rule import Rule

RULE = "beyondprop.rules.perturbation.node_perturbation:NodePerturbation"


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Settings of the noise."""

    kind: Literal["activity", "node", "weight"] = "activity"
    """Activity-based node perturbation, node perturbation, or weight perturbation."""
    sigma: float = 1e-3
    """Standard deviation of the noise."""
    samples: int = 16
    """Noisy rollouts of a step."""
    noise: Literal["gaussian", "signs"] = "signs"
    """Normal, or of one size."""


@dataclass(frozen=True, kw_only=True)
class DigitsSettings(Perturbation, NetworkSettings):
    """Settings of a perceptron."""


@dataclass(frozen=True, kw_only=True)
class InTime(Perturbation):
    """Settings of noise in a recurrent network."""

    whiten: bool = False
    """Whether the covariance of the activities is divided by."""
    explain: bool = False
    """Whether later noise is taken off the change of the loss as far as later signals tell its effect."""
    antithetic: bool = False
    """Whether each noisy rollout is a pair, with the noise and with its opposite."""
    credit: Literal["future", "step"] = "future"
    """Whether noise is credited with all losses from its step on, or with that of its step alone."""
    windows: int = 1
    """Optimizer steps in which a sequence is learned, one part after another; as many as time steps is online."""
    decorrelation: float = 0.0
    """Learning rate of the decorrelating matrix; 0 leaves it out."""


@dataclass(frozen=True, kw_only=True)
class Copying(InTime, sequences.CopyingSettings):
    """Settings of copying memory."""


@dataclass(frozen=True, kw_only=True)
class Adding(InTime, sequences.AddingSettings):
    """Settings of the adding problem."""


@dataclass(frozen=True, kw_only=True)
class MackeyGlass(InTime, sequences.MackeyGlassSettings):
    """Settings of the Mackey-Glass series."""


@dataclass(frozen=True, kw_only=True)
class CSV(InTime, sequences.CSVSettings):
    """Settings of a forecast of a column of a CSV file."""


def make_rule(network: Recurrent, settings: Any) -> Rule:
    """Put the rule around a sequence network."""
    from torch import nn

    from beyondprop.rules.perturbation.node_perturbation import NodePerturbation

    names = ("kind", "sigma", "samples", "antithetic", "noise", "credit", "windows", "decorrelation")
    options = {name: getattr(settings, name) for name in names}
    if settings.kind == "activity":
        options |= {"whiten": settings.whiten, "explain": settings.explain}
    return NodePerturbation(network, nn.MSELoss(reduction="none"), **options)


def choices(settings: Any) -> tuple[str, ...]:
    """Name what departs from the paper."""
    found = ["Adam", f"{settings.samples} noisy rollouts of each sequence"]
    if settings.credit == "future":
        found.append("noise is credited with all later losses (the released code: with its own step's)")
    if settings.antithetic:
        found.append("in pairs, with the noise and with its opposite")
    if settings.kind == "activity" and settings.whiten:
        found.append("activities are whitened")
    if settings.kind == "activity" and settings.explain:
        found.append("what later noise does is explained by later signals and taken off")
    if settings.noise == "signs":
        found.append("noise of one size and random sign")
    return tuple(found)


def recipe(variant: str, summary: str, settings: Any) -> Recipe:
    """Make the recipe of a sequence task."""
    build = sequences.builder(make_rule)
    data = type(settings).data
    return Recipe(f"node-perturbation/{variant}", summary, variant, settings, build, choices=choices, data=data)


RECIPES = (
    Recipe(
        "node-perturbation/digits",
        "activity-based node perturbation: a perceptron of 32 units on scikit-learn's digits",
        "digits",
        DigitsSettings(epochs=20, batch_size=64, hidden=32, depth=1, learning_rate=1e-2, samples=8, sigma=1e-2),
        classifier(RULE, kind="kind", sigma="sigma", samples="samples", noise="noise"),
    ),
    recipe(
        "copying",
        "copying memory: 5 symbols, a pause of 1 (the paper: 100 and 10), and a state of 12",
        Copying(
            epochs=30,
            length=5,
            delay=1,
            hidden=12,
            learning_rate=8e-2,
            samples=24,
            sigma=3e-5,
            whiten=True,
            explain=True,
        ),
    ),
    recipe("adding", "the adding problem over 20 steps", Adding(epochs=30)),
    recipe(
        "mackey-glass",
        "the Mackey-Glass series, its value 15 steps ago, as in the released code",
        MackeyGlass(epochs=40, batch_size=25, samples=8, task="recall"),
    ),
    recipe(
        "mackey-glass-forecast",
        "the Mackey-Glass series, its value 15 steps ahead",
        MackeyGlass(epochs=40, batch_size=25, samples=8),
    ),
    recipe("csv", "a column of your own CSV file, one row ahead (--file FILE)", CSV(epochs=60, batch_size=4)),
)
