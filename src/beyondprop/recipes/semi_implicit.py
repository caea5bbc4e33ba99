"""Semi-implicit back-propagation on the networks that rules are compared on, and in its authors' setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beyondprop.recipe import Recipe, Schedule
from beyondprop.recipes.classifiers import ClassifierSettings, Rates, builder, comparison_recipes


@dataclass(frozen=True, kw_only=True)
class SemiImplicitSettings(ClassifierSettings):
    """Settings of semi-implicit back-propagation; SGD with learning rate 1 takes its steps as they are."""

    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "nag"] = "sgd"
    lr_schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    step: float = 1.0
    """eta, of the scores."""
    regularisation: float = 30.0
    """lambda, the weight of staying where the parameters are."""
    solves: int = 1
    """Ridge regressions by which each layer's step is found."""


BUILD = builder(
    "beyondprop.rules.signals.semi_implicit:SemiImplicit",
    step="step",
    regularisation="regularisation",
    solves="solves",
)

# The authors' program (github.com/liur0810/semi-implicit-back-propagation), whose data set this is.
AUTHORS = SemiImplicitSettings(
    epochs=5,
    batch_size=100,
    learning_rate=1.0,
    lr_schedule="constant",
    hidden=500,
    depth=1,
    activation="relu",
    step=0.1,
    regularisation=1.0,
    solves=5,
)


def choices(_settings: SemiImplicitSettings) -> tuple[str, ...]:
    """Name what differs from the authors' program."""
    return (
        "ridge regressions in place of nonlinear conjugate gradients",
        "torch's initial weights in place of N(0, 0.05)",
        "pixels normalised",
    )


RECIPES = (
    *comparison_recipes(
        "semi-implicit",
        "semi-implicit back-propagation",
        BUILD,
        SemiImplicitSettings(),
        Rates(digits=1.0, mnist=1.0, cifar_10=1.0),
    ),
    Recipe(
        "semi-implicit/mnist-500",
        "the authors' perceptron, step and proximal weight on MNIST",
        "mnist",
        AUTHORS,
        BUILD,
        choices=choices,
    ),
)
