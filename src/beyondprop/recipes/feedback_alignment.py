"""Feedback alignment, sign-symmetry and Kolen-Pollack on the networks that rules are compared on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beyondprop.recipes.classifiers import ClassifierSettings, Rates, builder, comparison_recipes

MODULE = "beyondprop.rules.signals.feedback_alignment"


@dataclass(frozen=True, kw_only=True)
class SignSymmetrySettings(ClassifierSettings):
    """Settings of sign-symmetric feedback."""

    magnitude: Literal["uniform", "fixed", "batch"] = "uniform"
    """Of the feedback: one number a layer (uSF), drawn once (frSF), or drawn for every batch (brSF)."""


FA = comparison_recipes(
    "fa",
    "feedback alignment",
    builder(f"{MODULE}:FeedbackAlignment"),
    ClassifierSettings(),
    Rates(digits=0.03, mnist=0.003, cifar_10=0.001),
)
SIGN_SYMMETRY = comparison_recipes(
    "sign-symmetry",
    "sign-symmetric feedback",
    builder(f"{MODULE}:SignSymmetry", magnitude="magnitude"),
    SignSymmetrySettings(),
    Rates(digits=0.03, mnist=0.003, cifar_10=0.001, conv=0.01),
)
KOLEN_POLLACK = comparison_recipes(
    "kolen-pollack",
    "Kolen-Pollack",
    builder(f"{MODULE}:KolenPollack"),
    ClassifierSettings(weight_decay=0.1),
    Rates(digits=0.03, mnist=0.003, cifar_10=0.001),
)
