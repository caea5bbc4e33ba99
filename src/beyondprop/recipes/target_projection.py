"""DRTP and tpSGD on the networks that rules are compared on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beyondprop.recipes.classifiers import ClassifierSettings, Rates, builder, comparison_recipes, row_recipes

MODULE = "beyondprop.rules.signals.target_projection"


@dataclass(frozen=True, kw_only=True)
class TPSGDSettings(ClassifierSettings):
    """Settings of target projection."""

    local_loss: Literal["l2", "l1", "linear"] = "l2"
    """Between a layer's activation and its target."""
    target_scale: float = 5.0
    """Of the random targets, beside what the activation can reach."""


DRTP_BUILD = builder(f"{MODULE}:DRTP")
TPSGD_BUILD = builder(f"{MODULE}:TPSGD", local_loss="local_loss", target_scale="target_scale")

DRTP = (
    *comparison_recipes(
        "drtp",
        "direct random target projection",
        DRTP_BUILD,
        ClassifierSettings(),
        Rates(digits=0.03, mnist=0.01, cifar_10=0.003, conv=0.003),
    ),
    *row_recipes("drtp", "direct random target projection", DRTP_BUILD, ClassifierSettings(), digits=3e-4, mnist=1e-3),
)
TPSGD = (
    *comparison_recipes(
        "tpsgd",
        "target projection",
        TPSGD_BUILD,
        TPSGDSettings(),
        Rates(digits=0.1, mnist=0.01, cifar_10=0.003, conv=0.03),
    ),
    *row_recipes("tpsgd", "target projection", TPSGD_BUILD, TPSGDSettings(target_scale=2.0), digits=1e-3, mnist=1e-4),
)
