"""Forward gradients of weights and of activities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beyondprop.recipe import Recipe
from beyondprop.recipes.classifiers import NetworkSettings, builder


@dataclass(frozen=True, kw_only=True)
class ForwardGradientSettings(NetworkSettings):
    """Settings of forward gradients."""

    perturb: Literal["activities", "weights"] = "activities"
    """What moves along a random direction."""
    directions: int = 4
    """Random directions of a step, a forward pass each."""
    orthogonal: bool = False
    """Directions at right angles to each other."""


RECIPES = (
    Recipe(
        "forward-gradient/digits",
        "a perceptron with one hidden layer of 32 units on scikit-learn's digits",
        "digits",
        ForwardGradientSettings(epochs=30, batch_size=64, hidden=32, depth=1, learning_rate=1e-2),
        builder(
            "beyondprop.rules.perturbation.forward_gradient:ForwardGradient",
            perturb="perturb",
            directions="directions",
            orthogonal="orthogonal",
        ),
    ),
)
