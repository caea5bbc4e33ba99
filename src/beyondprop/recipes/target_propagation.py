"""Difference target propagation and its variants (arXiv 2006.14331) on the paper's networks.

The paper trains for 100 epochs and chooses the best one by held-out images; here the last of a few is reported, under a
one-cycle schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Recipe
from beyondprop.recipes.classifiers import NetworkName, NetworkSettings, baseline, builder, data_of

if TYPE_CHECKING:
    from beyondprop.data import Splits
    from beyondprop.recipe import Experiment

MODULE = "beyondprop.rules.signals"


@dataclass(frozen=True, kw_only=True)
class TargetSettings(NetworkSettings):
    """Settings of rules whose targets come by learned feedback."""

    epochs: int = 12
    learning_rate: float = 1e-3
    """Of the network."""
    weight_decay: float = 0.0
    """Of the network."""
    network: NetworkName = "deep-mlp"
    hidden: int = 256
    depth: int = 5
    target_step: float = 0.1
    """How far the output's target stands off, in units of its gradient for one sample."""
    noise: float = 0.1
    """Standard deviation of what is added to activations, from which the feedback learns."""
    feedback_rate: float = 1e-3
    """Of the feedback."""
    feedback_decay: float = 0.0
    """Weight decay of the feedback."""
    feedback_steps: int = 1
    """Of the feedback for one batch."""
    pretraining: int = 0
    """Epochs in which the feedback alone learns, before all others."""
    extra_epochs: int = 0
    """Passes over the data in which the feedback alone learns, after each epoch."""


@dataclass(frozen=True, kw_only=True)
class DirectTargetSettings(TargetSettings):
    """Settings of direct difference target propagation."""

    feedback: Literal["linear", "rhl", "control"] = "linear"
    """A matrix; or over a fixed random layer, shared by all units; or the matrix of the paper's control."""
    feedback_hidden: int = 1024
    """Length of the random layer."""


OPTIONS = {
    name: name
    for name in (
        *("target_step", "noise", "feedback_rate", "feedback_decay"),
        *("feedback_steps", "pretraining", "extra_epochs"),
    )
}
DATA = {"digits": "scikit-learn's digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar-10": "CIFAR-10"}


def on(variant: str, settings: Any) -> Any:
    """Set the paper's network for a data set."""
    if variant.startswith("digits"):
        rate = 1e-1 if getattr(settings, "feedback", "") == "control" else 1e-2
        return replace(settings, epochs=20, hidden=64, depth=3, learning_rate=rate)
    if variant.startswith("fashion-mnist"):
        return replace(settings, learning_rate=1e-3)
    if variant.startswith("cifar-10-conv"):
        return replace(settings, network="pooled-conv", hidden=512)
    if variant.startswith("cifar-10"):
        return replace(settings, hidden=1024, depth=3)
    return replace(settings, network="deep-mlp-frozen") if "frozen" in variant else settings


def recipe(
    system: str, variant: str, name: str, build: Callable[[Any, Splits], Experiment], settings: TargetSettings
) -> Recipe:
    """Make a recipe; the network is that of the variant's data set."""
    data = data_of(variant)
    told = f"{name} on {DATA[data]}"
    if "frozen" in variant:
        told += ", the first layer alone trained"
    if "conv" in variant:
        told += ", a convolutional network"
    return Recipe(f"{system}/{variant}", told, data, on(variant, settings), build)


def dtp(variant: str, settings: TargetSettings, name: str = "difference target propagation") -> Recipe:
    """Make a recipe of DTP."""
    return recipe("dtp", variant, name, builder(f"{MODULE}.target_propagation:DTP", **OPTIONS), settings)


def dtpdr(variant: str, settings: TargetSettings) -> Recipe:
    """Make a recipe of DTPDR."""
    build = builder(f"{MODULE}.target_propagation:DTPDR", **OPTIONS)
    return recipe("dtpdr", variant, "difference reconstruction", build, settings)


def ddtp(variant: str, settings: DirectTargetSettings) -> Recipe:
    """Make a recipe of DDTP."""
    own = {"feedback": "feedback", "hidden": "feedback_hidden"}
    build = builder(f"{MODULE}.direct_target_propagation:DDTP", **OPTIONS, **own)
    kinds = {
        "linear": "direct targets by matrices",
        "rhl": "direct targets over a random layer",
        "control": "direct targets, the paper's control",
    }
    return recipe("ddtp", variant, kinds[settings.feedback], build, settings)


def on_images(variant: str, settings: DirectTargetSettings) -> DirectTargetSettings:
    """Set what some data want otherwise."""
    if "frozen" in variant:
        return replace(settings, learning_rate=1e-2)
    if not variant.startswith("cifar-10"):
        return settings
    return replace(settings, learning_rate=1e-3 if "conv" in variant else 3e-4, feedback_hidden=2048)


# Without pretraining, as the paper has plain DTP.
PLAIN = TargetSettings(learning_rate=3e-3)
DIFFERENCE = TargetSettings(learning_rate=3e-3, pretraining=1)
LINEAR = DirectTargetSettings(learning_rate=3e-3, pretraining=1, feedback_rate=1e-2, feedback_decay=10.0)
RHL = replace(LINEAR, feedback="rhl", feedback_rate=1e-3)
CONTROL = replace(LINEAR, feedback="control")

DTP = (
    dtp("digits", PLAIN),
    dtp("mnist", PLAIN),
    dtp("mnist-pretrained", replace(PLAIN, pretraining=2, extra_epochs=1), "difference targets, feedback pretrained,"),
    dtp("mnist-frozen", replace(PLAIN, learning_rate=3e-2)),
    dtp("fashion-mnist", PLAIN),
    dtp("cifar-10", PLAIN),
)
DTPDR = (
    dtpdr("digits", DIFFERENCE),
    dtpdr("mnist", DIFFERENCE),
    dtpdr("mnist-frozen", DIFFERENCE),
    dtpdr("fashion-mnist", DIFFERENCE),
    dtpdr("cifar-10", replace(DIFFERENCE, learning_rate=1e-3)),
)
DDTP = tuple(
    ddtp(f"{variant}{suffix}", on_images(variant, settings))
    for suffix, settings in (("", LINEAR), ("-rhl", RHL), ("-control", CONTROL))
    for variant in ("digits", "mnist", "mnist-frozen", "fashion-mnist", "cifar-10", *["cifar-10-conv"] * (not suffix))
)
BASELINES = tuple(
    baseline(DDTP[number], rate, name=f"{DDTP[number].id.split('/')[1]}-targets")
    for number, rate in ((1, 3e-3), (2, 1e-2), (3, 1e-3), (4, 3e-4), (5, 1e-3))
)
