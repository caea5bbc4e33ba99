"""Multiplexed gradient descent: networks that are evaluated and never differentiated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beyondprop.recipes.classifiers import NetworkSettings, builder
from beyondprop.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class MultiplexedSettings(NetworkSettings):
    """Settings of multiplexed gradient descent."""

    code: Literal["random", "sequential", "walsh", "sinusoidal"] = "random"
    """How perturbations of the parameters share time."""
    norm: float = 0.1
    """Length of a perturbation of all parameters."""
    tau_x: int = 256
    """Steps for which a batch is presented, each with a perturbation of its own; one update follows."""
    cost_noise: float = 0.0
    """Standard deviation of noise on every read of a perturbed cost."""


BUILD = builder(
    "beyondprop.rules.perturbation.multiplexed:MultiplexedGradientDescent",
    code="code",
    norm="norm",
    tau_x="tau_x",
    cost_noise="cost_noise",
)
RECIPES = (
    Recipe(
        "mgd/digits",
        "a perceptron with one hidden layer of 32 units on scikit-learn's digits",
        "digits",
        MultiplexedSettings(epochs=10, batch_size=64, hidden=32, depth=1, learning_rate=1e-2),
        BUILD,
    ),
)
