"""Cascaded Forward: the paper's three convolutional blocks, random or trained by direct feedback."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from beyondprop.recipes.classifiers import NetworkName, NetworkSettings, baseline, builder
from beyondprop.recipes.recipe import Recipe

MODULE = "beyondprop.rules.local.cascaded_forward"


@dataclass(frozen=True, kw_only=True)
class CascadeSettings(NetworkSettings):
    """Settings of Cascaded Forward."""

    network: NetworkName = "cascade"
    loss: Literal["cross-entropy", "sparsemax", "squared"] = "cross-entropy"
    """Of the predictors."""


BUILD = builder("beyondprop.rules.local.cascaded_forward:CascadedForward", loss="loss")
BUILD_DFA = builder("beyondprop.rules.local.cascaded_feedback:CascadedForwardDFA", loss="loss")

RANDOM = (
    Recipe(
        "cafo/digits",
        "random convolutions on scikit-learn's digits",
        "digits",
        replace(CascadeSettings(), epochs=10),
        BUILD,
    ),
    Recipe("cafo/mnist", "three random convolutional blocks on MNIST", "mnist", CascadeSettings(), BUILD),
    Recipe("cafo/cifar-10", "three random convolutional blocks on CIFAR-10", "cifar-10", CascadeSettings(), BUILD),
)
FEEDBACK = (
    Recipe(
        "cafo-dfa/digits",
        "convolutions trained by direct feedback on scikit-learn's digits",
        "digits",
        replace(CascadeSettings(), epochs=10),
        BUILD_DFA,
    ),
    Recipe(
        "cafo-dfa/cifar-10",
        "three convolutional blocks trained by direct feedback on CIFAR-10",
        "cifar-10",
        replace(CascadeSettings(), epochs=15, augment="crop-flip"),
        BUILD_DFA,
    ),
)
BASELINES = ()
