"""NoProp by flow matching (arXiv 2503.24322): the paper's image experiments and a small one on the digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from beyondprop.recipe import Experiment, Recipe
from beyondprop.recipes.noprop.blocks import (
    INFERENCE,
    VARIANTS,
    TimedSettings,
    make_embedding,
    make_timed_network,
    published,
    timed_choices,
    timed_experiment,
)

if TYPE_CHECKING:
    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class NoPropFMSettings(TimedSettings):
    """Settings of NoProp by flow matching."""

    sigma: float = 0.1
    """Noise around the straight line from z_0 to the label (the paper gives none)."""
    method: Literal["euler", "heun", "adams-bashforth"] = "euler"
    """At inference: how a step is taken."""
    grid: Literal["uniform", "log-snr"] = "uniform"
    """At inference: where the steps stand, evenly in time or in log SNR."""


def build(settings: NoPropFMSettings, splits: Splits) -> Experiment:
    """Build NoProp-FM on a data set."""
    from beyondprop.rules.local.noprop import NoPropFM

    embedding = make_embedding(settings, splits.train)
    encoder, block = make_timed_network(settings, splits.train, embedding)
    rule = NoPropFM(
        encoder, block, embedding, sigma=settings.sigma, consistency=settings.consistency, draws=settings.draws
    )
    return timed_experiment(settings, rule, {"method": settings.method, "grid": settings.grid})


def choices(settings: NoPropFMSettings) -> tuple[str, ...]:
    """Name what is settled for NoProp-FM where the paper is silent or says something else."""
    return (
        *timed_choices(settings),
        f"sigma {settings.sigma}",
        f"predicted in {settings.steps} steps ({settings.method}, {settings.grid}) from z_0 {settings.start}",
    )


# The larger class, which is not the paper's: what few epochs on a CPU allow.
LARGE = NoPropFMSettings(
    epochs=12,
    encoder="residual",
    batch_size=256,
    learning_rate=3e-3,
    weight_decay=0.05,
    optimizer="adamw",
    lr_schedule="one-cycle",
    augment="crop-flip",
    ema=0.995,
    draws=8,
)

RECIPES = (
    Recipe(
        "noprop-fm/digits",
        "one small block for all times on scikit-learn's 8x8 digits",
        "digits",
        NoPropFMSettings(
            epochs=40, first_width=16, hidden=64, learning_rate=3e-3, lr_schedule="one-cycle", dropout=0.1
        ),
        build,
        inference=INFERENCE,
    ),
    Recipe(
        "noprop-fm/mnist",
        "the paper's MNIST experiment",
        "mnist",
        NoPropFMSettings(epochs=100),
        build,
        published({"one-hot": 0.9921, "learned": 0.9929, "prototype": 0.9852}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-fm/cifar-10",
        "the paper's CIFAR-10 experiment",
        "cifar-10",
        NoPropFMSettings(epochs=500),
        build,
        published({"one-hot": 0.7314, "learned": 0.735, "prototype": 0.7518}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-fm/cifar-100",
        "the paper's CIFAR-100 experiment",
        "cifar-100",
        NoPropFMSettings(epochs=1000),
        build,
        published({"one-hot": 0.0638, "learned": 0.3114, "prototype": 0.3757}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-fm/cifar-10-large",
        "larger class: a residual encoder, augmentation, averaged weights; CIFAR-10",
        "cifar-10",
        LARGE,
        build,
        choices=choices,
        inference=INFERENCE,
    ),
    Recipe(
        "noprop-fm/cifar-100-large",
        "larger class: a residual encoder, augmentation, averaged weights; CIFAR-100",
        "cifar-100",
        replace(LARGE, epochs=16),
        build,
        choices=choices,
        inference=INFERENCE,
    ),
)
