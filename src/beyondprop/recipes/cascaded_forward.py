"""Cascaded Forward: the paper's three convolutional blocks, random or trained by direct feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from beyondprop.recipe import Experiment, Published, Recipe, SolverSettings
from beyondprop.recipes.classifiers import NetworkName, NetworkSettings, baseline, builder, data_of, make_network

if TYPE_CHECKING:
    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class CascadeSettings(NetworkSettings):
    """Settings of Cascaded Forward."""

    network: NetworkName = "cascade"
    loss: Literal["cross-entropy", "sparsemax", "squared"] = "cross-entropy"
    """Of the predictors."""


@dataclass(frozen=True, kw_only=True)
class LeastSquaresSettings(SolverSettings):
    """Settings of Cascaded Forward in closed form."""

    batch_size: int = 1000
    ridge: float = 1e-2
    """Of the normal equations, in units of the mean squared norm of a feature."""


def build_least_squares(settings: LeastSquaresSettings, splits: Splits) -> Experiment:
    """Build the paper's random blocks under the solver."""
    from beyondprop.solvers.cascaded_forward import CascadedLeastSquares

    network, example = make_network(CascadeSettings(), splits.train.images.shape[1:], splits.train.classes)
    return Experiment(CascadedLeastSquares.for_classifier(network, example, splits.train.classes, ridge=settings.ridge))


BUILD = builder("beyondprop.rules.local.cascaded_forward:CascadedForward", loss="loss")
BUILD_DFA = builder("beyondprop.rules.local.cascaded_feedback:CascadedForwardDFA", loss="loss")

CHOICES = ("AdamW, one-cycle schedule", "statistics of batch norms from training")
FEEDBACK_CHOICES = (
    *CHOICES,
    "no augmentation, and as many epochs of blocks as of predictors (re-measured: 250 on CIFAR-10, cropped, flipped)",
)
CONV = "three random convolutional blocks of 32, 128 and 512 channels"


def recipe(
    variant: str, summary: str, settings: CascadeSettings, published: float | None = None, *, feedback: bool = False
) -> Recipe:
    """Make a recipe; the variant begins with the data set's name."""
    system = "cafo-dfa" if feedback else "cafo"
    source = "arXiv 2511.01061, re-measured" if feedback else "arXiv 2303.09728, as later papers quote it"
    if variant == "mnist" and feedback:
        source += " (three runs, 98.96 to 99.05)"
    figures = None if published is None else Published({"test_accuracy": published}, source)
    build = BUILD_DFA if feedback else BUILD
    choices: tuple[str, ...] = FEEDBACK_CHOICES if feedback else CHOICES
    if variant == "mnist" and not feedback:
        choices = (*choices, "all 60,000 images train (the authors' program takes 50,000)")
    choices += ("mirrored images",) if settings.augment == "flip" else ()
    return Recipe(
        f"{system}/{variant}",
        summary,
        data_of(variant),
        settings,
        build,
        lambda _settings: figures,
        lambda _settings: choices,
    )


def least_squares(variant: str, summary: str, settings: LeastSquaresSettings, published: float | None) -> Recipe:
    """Make a recipe of the closed form."""
    figures = None if published is None else Published({"test_accuracy": published}, "comments in the official code")
    return Recipe(
        f"cafo/{variant}",
        f"{summary}, least squares in closed form",
        variant.removesuffix("-mse"),
        settings,
        build_least_squares,
        lambda _settings: figures,
        lambda _settings: ("a ridge", *CHOICES[1:]),
    )


RANDOM = (
    recipe("digits", "random convolutions on scikit-learn's digits", CascadeSettings(learning_rate=1e-2)),
    recipe("mnist", f"{CONV} on MNIST", CascadeSettings(learning_rate=3e-3), 0.988),
    recipe("cifar-10", f"{CONV} on CIFAR-10", CascadeSettings(), 0.6743),
    recipe(
        "cifar-10-sparsemax",
        f"{CONV} on CIFAR-10, sparsemax loss",
        CascadeSettings(loss="sparsemax"),
        0.6635,
    ),
    recipe("cifar-100", f"{CONV} on CIFAR-100", CascadeSettings(augment="flip"), 0.4076),
    least_squares("digits-mse", "random convolutions on scikit-learn's digits", LeastSquaresSettings(), None),
    least_squares("mnist-mse", f"{CONV} on MNIST", LeastSquaresSettings(), None),
    least_squares("cifar-10-mse", f"{CONV} on CIFAR-10", LeastSquaresSettings(), 0.6514),
)
TRAINED = "three convolutional blocks trained by direct feedback"
FEEDBACK = (
    recipe(
        "digits", "convolutions trained by direct feedback on scikit-learn's digits", CascadeSettings(), feedback=True
    ),
    recipe("mnist", f"{TRAINED} on MNIST", CascadeSettings(epochs=5), 0.99, feedback=True),
    recipe("cifar-10", f"{TRAINED} on CIFAR-10", CascadeSettings(epochs=15), 0.7843, feedback=True),
    recipe("cifar-100", f"{TRAINED} on CIFAR-100", CascadeSettings(epochs=15), 0.5012, feedback=True),
)
BASELINES = (
    baseline(RANDOM[1], 1e-3),
    baseline(RANDOM[2], 1e-2),
    baseline(RANDOM[4], 1e-2),
)
