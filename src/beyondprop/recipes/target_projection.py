"""DRTP and tpSGD on the networks that rules are compared on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beyondprop.recipes.classifiers import ClassifierSettings, Rates, builder, comparison_recipes

MODULE = "beyondprop.rules.signals.target_projection"


@dataclass(frozen=True, kw_only=True)
class TPSGDSettings(ClassifierSettings):
    """Settings of target projection."""

    local_loss: Literal["l2", "l1", "linear"] = "l2"
    """Between a layer's activation and its target."""
    target_scale: float = 2.0
    """Of the random targets, beside what the activation can reach."""


DRTP = comparison_recipes(
    "drtp",
    "direct random target projection",
    builder(f"{MODULE}:DRTP"),
    ClassifierSettings(),
    Rates(digits=0.03, mnist=0.01, cifar_10=0.003, conv=0.003),
)
TPSGD = comparison_recipes(
    "tpsgd",
    "target projection",
    builder(f"{MODULE}:TPSGD", local_loss="local_loss", target_scale="target_scale"),
    TPSGDSettings(),
    Rates(digits=0.1, mnist=0.01, cifar_10=0.003, conv=0.03),
)
