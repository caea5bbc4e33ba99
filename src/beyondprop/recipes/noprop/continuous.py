"""NoProp, continuous time (arXiv 2503.24322): the paper's image experiments and a small one on the digits."""

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
class NoPropCTSettings(TimedSettings):
    """Settings of NoProp in continuous time."""

    eta: float = 1.0
    """Weight of the denoising term."""
    weighting: Literal["log-snr", "snr"] = "log-snr"
    """Weigh the denoising term by (log SNR)'(t), every octave of noise alike, or by SNR'(t) as in the paper."""
    error: Literal["squared", "cross-entropy"] = "squared"
    """Of what a block says: the paper's squared distance, or cross-entropy."""
    method: Literal["multistep", "exponential", "heun", "euler", "ancestral"] = "multistep"
    """At inference: how a step is taken."""
    grid: Literal["log-snr", "uniform"] = "log-snr"
    """At inference: where the steps stand, evenly in log SNR or in time."""


def build(settings: NoPropCTSettings, splits: Splits) -> Experiment:
    """Build NoProp-CT on a data set."""
    from beyondprop.rules.local.noprop import NoPropCT

    embedding = make_embedding(settings, splits.train)
    encoder, block = make_timed_network(settings, splits.train, embedding)
    rule = NoPropCT(
        encoder,
        block,
        embedding,
        eta=settings.eta,
        weighting=settings.weighting,
        error=settings.error,
        consistency=settings.consistency,
        draws=settings.draws,
    )
    return timed_experiment(settings, rule, {"method": settings.method, "grid": settings.grid})


def choices(settings: NoPropCTSettings) -> tuple[str, ...]:
    """Name what is settled for NoProp-CT where the paper is silent or says something else."""
    return (
        *timed_choices(settings),
        "log SNR starts between -6 and 5.3",
        *(("denoising weighted by (log SNR)'",) if settings.weighting == "log-snr" else ()),
        f"predicted in {settings.steps} steps ({settings.method}, {settings.grid}) from z_0 {settings.start}",
    )


# The larger class, which is not the paper's: what few epochs on a CPU allow.
LARGE = NoPropCTSettings(
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
    error="cross-entropy",
)

RECIPES = (
    Recipe(
        "noprop-ct/digits",
        "one small block for all times on scikit-learn's 8x8 digits",
        "digits",
        NoPropCTSettings(
            epochs=40, first_width=16, hidden=64, learning_rate=3e-3, lr_schedule="one-cycle", dropout=0.1
        ),
        build,
        inference=INFERENCE,
    ),
    Recipe(
        "noprop-ct/mnist",
        "the paper's MNIST experiment",
        "mnist",
        NoPropCTSettings(epochs=100),
        build,
        published({"one-hot": 0.9784, "learned": 0.977, "prototype": 0.9717}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-ct/cifar-10",
        "the paper's CIFAR-10 experiment",
        "cifar-10",
        NoPropCTSettings(epochs=500),
        build,
        published({"one-hot": 0.7335, "learned": 0.7177, "prototype": 0.6654}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-ct/cifar-100",
        "the paper's CIFAR-100 experiment",
        "cifar-100",
        NoPropCTSettings(epochs=1000),
        build,
        published({"one-hot": 0.3366, "learned": 0.3399, "prototype": 0.2131}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-ct/cifar-10-large",
        "larger class: a residual encoder, augmentation, averaged weights; CIFAR-10",
        "cifar-10",
        LARGE,
        build,
        choices=choices,
        inference=INFERENCE,
    ),
    Recipe(
        "noprop-ct/cifar-100-large",
        "larger class: a residual encoder, augmentation, averaged weights; CIFAR-100",
        "cifar-100",
        replace(LARGE, epochs=16),
        build,
        choices=choices,
        inference=INFERENCE,
    ),
)
