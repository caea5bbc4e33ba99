"""BPC and ProxProp on the networks that rules are compared on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beyondprop.recipe import Schedule
from beyondprop.recipes.classifiers import ClassifierSettings, Rates, builder, comparison_recipes


@dataclass(frozen=True, kw_only=True)
class BPCSettings(ClassifierSettings):
    """Settings of consequential updates."""

    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "nag"] = "sgd"
    lr_schedule: Schedule = "cosine"
    form: Literal["projection", "normalised"] = "projection"
    """Affine projection of the batch, or each sample's own normalised step."""
    regularisation: float = 30.0
    """c, added to the Gram matrix's diagonal or to a squared input."""


@dataclass(frozen=True, kw_only=True)
class ProxPropSettings(ClassifierSettings):
    """Settings of proximal back-propagation; optimizer and learning rate are those of the authors' experiments.

    They have tau 0.05; that of `benchmarks/proximal_steps.py` was the best on held-out images of MNIST.
    """

    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "nag"] = "nag"
    momentum: float = 0.95
    lr_schedule: Schedule = "cosine"
    tau: float = 1.0
    """Step size of the proximal step."""
    cg_steps: int | None = None
    """Conjugate-gradient steps; None for the exact proximal step."""


BPC = comparison_recipes(
    "bpc",
    "consequential updates",
    builder("beyondprop.rules.signals.consequential:BPC", form="form", regularisation="regularisation"),
    BPCSettings(),
    Rates(digits=3.0, mnist=3.0, cifar_10=1.0, conv=10.0),
)
PROXPROP = comparison_recipes(
    "proxprop",
    "proximal back-propagation",
    builder("beyondprop.rules.signals.proxprop:ProxProp", tau="tau", cg_steps="cg_steps"),
    ProxPropSettings(),
    Rates(digits=1.0, mnist=3.0, cifar_10=1.0),
)
