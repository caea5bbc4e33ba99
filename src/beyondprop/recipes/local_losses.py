"""Mono-Forward, predsim and CwComp: each block of a network with a loss of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from beyondprop.recipe import Published, Recipe
from beyondprop.recipes.classifiers import Activation, NetworkName, NetworkSettings, baseline, builder, data_of


@dataclass(frozen=True, kw_only=True)
class BlockwiseSettings(NetworkSettings):
    """Settings of a network trained block by block."""

    activation: Activation = "relu"
    order: Literal["together", "one-by-one"] = "together"
    """Train all blocks at every step, or one after another, each for all epochs."""


@dataclass(frozen=True, kw_only=True)
class PredSimSettings(BlockwiseSettings):
    """Settings of predsim."""

    activation: Activation = "leaky-relu"
    batch_norm: bool = True
    beta: float = 0.99
    """Share of similarity matching in the local loss; the rest is prediction."""


@dataclass(frozen=True, kw_only=True)
class ClassChannelSettings(BlockwiseSettings):
    """Settings of CwComp."""

    network: NetworkName = "channels"
    goodness: Literal["square", "mean"] = "square"
    """Of a class's channels."""


MONO = builder("beyondprop.rules.local.mono_forward:MonoForward", order="order")
PREDSIM = builder("beyondprop.rules.local.predsim:PredSim", order="order", beta="beta")
CWCOMP = builder("beyondprop.rules.local.class_channels:ClassChannels", order="order", goodness="goodness")

CHOICES: tuple[str, ...] = ("AdamW, one-cycle schedule",)
TITLES = {"mnist": "MNIST", "cifar-10": "CIFAR-10", "cifar-100": "CIFAR-100"}
SMALL: dict[str, Any] = {"epochs": 15, "hidden": 64, "depth": 3, "learning_rate": 1e-2}


def recipe(
    recipe_id: str,
    summary: str,
    settings: BlockwiseSettings,
    published: float | None = None,
    source: str = "",
) -> Recipe:
    """Make a recipe of the rule that the settings belong to; the variant begins with the data set's name."""
    build = PREDSIM if isinstance(settings, PredSimSettings) else MONO
    build = CWCOMP if isinstance(settings, ClassChannelSettings) else build
    variant = recipe_id.partition("/")[2]
    figures = None if published is None else Published({"test_accuracy": published}, source)
    choices = CHOICES
    if isinstance(settings, PredSimSettings):
        choices = (*CHOICES, "few epochs (the paper has 400)", "local losses behind pooling and dropout")
        choices += () if settings.augment != "none" else ("no augmentation and no dropout",)
    elif build is MONO:
        choices = (*CHOICES, "all layers at once (in the re-measurement one after another)")
        choices += ("mirrored images",) if settings.augment == "flip" else ()
    return Recipe(
        recipe_id, summary, data_of(variant), settings, build, lambda _settings: figures, lambda _settings: choices
    )


WIDE = BlockwiseSettings(epochs=15, hidden=2000, depth=3, learning_rate=3e-3)
MIRRORED = replace(WIDE, learning_rate=3e-4, augment="flip")  # else it learns the images of CIFAR by heart
DIGITS = "a perceptron with three hidden layers on scikit-learn's digits"
THREE = "the paper's perceptron, three hidden layers"
REMEASURED = "arXiv 2511.01061, re-measured (CIFAR-100: 30.2 to 30.5 in its logs)"
MONO_FORWARD = (
    recipe("mono-forward/digits", DIGITS, BlockwiseSettings(**SMALL)),
    *(
        recipe(
            f"mono-forward/{data}",
            f"{THREE} of 2000 units, on {title}",
            MIRRORED if data.startswith("cifar") else WIDE,
            {"cifar-10": 0.6201, "cifar-100": 0.3035}.get(data),
            REMEASURED,
        )
        for data, title in TITLES.items()
    ),
)
PRED_SIM = (
    recipe("predsim/digits", DIGITS, PredSimSettings(**SMALL)),
    *(
        recipe(
            f"predsim/{data}",
            f"{THREE} of 3000 units, on {title}",
            PredSimSettings(epochs=15, hidden=3000, depth=3),
            {"cifar-10": 0.6907, "cifar-100": 0.4312}.get(data),
            "the authors' repository, for arXiv 1901.06656",
        )
        for data, title in TITLES.items()
    ),
    recipe(
        "predsim/cifar-10-vgg8b",
        "the paper's convolutional network, VGG8b, on CIFAR-10",
        PredSimSettings(epochs=30, network="vgg8b", dropout=0.2, augment="crop-flip"),
        0.9442,
        "the authors' repository, for arXiv 1901.06656",
    ),
)
CHANNELS = "four convolutional blocks of 20, 80, 240 and 480 channels"
CLASS_CHANNELS = (
    recipe("cwcomp/digits", DIGITS, ClassChannelSettings(network="mlp", **SMALL)),
    recipe(
        "cwcomp/mnist", f"{CHANNELS} on MNIST", ClassChannelSettings(epochs=10), 0.9942, "arXiv 2312.12668, abstract"
    ),
    recipe(
        "cwcomp/cifar-10",
        f"{CHANNELS} on CIFAR-10",
        ClassChannelSettings(epochs=20),
        0.7811,
        "arXiv 2312.12668, abstract",
    ),
)
BASELINES = (
    baseline(MONO_FORWARD[1], 1e-3),
    baseline(MONO_FORWARD[2], 1e-4),
    baseline(MONO_FORWARD[3], 1e-4),
    baseline(PRED_SIM[1], 1e-3),
    baseline(PRED_SIM[2], 1e-4),
    baseline(PRED_SIM[3], 1e-4),
    baseline(PRED_SIM[4], 1e-3),
    baseline(CLASS_CHANNELS[1], 1e-3),
    baseline(CLASS_CHANNELS[2], 1e-3),
)
