"""Mono-Forward, predsim and CwComp: each block of a network with a loss of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from beyondprop.recipes.classifiers import NetworkName, NetworkSettings, baseline, builder
from beyondprop.recipes.recipe import Published, Recipe


@dataclass(frozen=True, kw_only=True)
class BlockwiseSettings(NetworkSettings):
    """Settings of a network trained block by block."""

    activation: Literal["tanh", "relu", "leaky-relu"] = "relu"
    order: Literal["together", "one-by-one"] = "together"
    """Train all blocks at every step, or one after another, each for all epochs."""


@dataclass(frozen=True, kw_only=True)
class PredSimSettings(BlockwiseSettings):
    """Settings of predsim."""

    activation: Literal["tanh", "relu", "leaky-relu"] = "leaky-relu"
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

MONO_FORWARD = (
    Recipe(
        "mono-forward/digits",
        "a perceptron with three hidden layers on scikit-learn's digits",
        "digits",
        BlockwiseSettings(epochs=15, hidden=64, depth=3, learning_rate=1e-2),
        MONO,
    ),
    *(
        Recipe(
            f"mono-forward/{data}",
            f"the paper's perceptron, three hidden layers of 2000 units, on {title}",
            data,
            BlockwiseSettings(epochs=15, hidden=2000, depth=3),
            MONO,
        )
        for data, title in (("mnist", "MNIST"), ("cifar-10", "CIFAR-10"), ("cifar-100", "CIFAR-100"))
    ),
)
PRED_SIM = (
    Recipe(
        "predsim/digits",
        "a perceptron with three hidden layers on scikit-learn's digits",
        "digits",
        PredSimSettings(epochs=15, hidden=64, depth=3, learning_rate=1e-2),
        PREDSIM,
    ),
    *(
        Recipe(
            f"predsim/{data}",
            f"the paper's perceptron, three hidden layers of 3000 units, on {title}",
            data,
            PredSimSettings(epochs=15, hidden=3000, depth=3),
            PREDSIM,
        )
        for data, title in (("mnist", "MNIST"), ("cifar-10", "CIFAR-10"), ("cifar-100", "CIFAR-100"))
    ),
)
CLASS_CHANNELS = (
    Recipe(
        "cwcomp/digits",
        "a perceptron with two hidden layers on scikit-learn's digits",
        "digits",
        ClassChannelSettings(network="mlp", epochs=15, hidden=80, learning_rate=1e-2),
        CWCOMP,
    ),
    Recipe(
        "cwcomp/mnist",
        "four convolutional blocks of 20, 80, 240 and 480 channels on MNIST",
        "mnist",
        ClassChannelSettings(epochs=10),
        CWCOMP,
    ),
    Recipe(
        "cwcomp/cifar-10",
        "four convolutional blocks of 20, 80, 240 and 480 channels on CIFAR-10",
        "cifar-10",
        ClassChannelSettings(epochs=20),
        CWCOMP,
    ),
)
BASELINES = ()
