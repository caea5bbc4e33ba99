"""Exact Gauss-Newton targets on small perceptrons."""

from __future__ import annotations

from dataclasses import dataclass, replace

from beyondprop.recipe import Recipe
from beyondprop.recipes.classifiers import NetworkName, NetworkSettings, builder


@dataclass(frozen=True, kw_only=True)
class GaussNewtonSettings(NetworkSettings):
    """Settings of Gauss-Newton targets."""

    network: NetworkName = "deep-mlp"
    hidden: int = 256
    depth: int = 5
    weight_decay: float = 0.0
    damping: float = 0.1
    """lambda, in the units of J J^T of the activations; 0 takes pseudo-inverses."""


BUILD = builder("beyondprop.rules.signals.gauss_newton:GaussNewtonTargets", damping="damping")
MNIST = GaussNewtonSettings(learning_rate=1e-3)
RECIPES = (
    Recipe(
        "gauss-newton/digits",
        "Gauss-Newton targets on scikit-learn's digits",
        "digits",
        replace(MNIST, epochs=15, hidden=64, depth=3, learning_rate=3e-3),
        BUILD,
    ),
    Recipe("gauss-newton/mnist", "Gauss-Newton targets: the perceptron of ddtp/mnist", "mnist", MNIST, BUILD),
)
