"""Direct feedback alignment, of the error or its sign, fixed or learned, on the networks that rules share."""

from __future__ import annotations

from dataclasses import dataclass

from beyondprop.recipes.classifiers import ClassifierSettings, Rates, builder, comparison_recipes

MODULE = "beyondprop.rules.signals.direct_feedback"


@dataclass(frozen=True, kw_only=True)
class SignDFASettings(ClassifierSettings):
    """Settings of direct feedback of the error's sign."""

    centred: bool = False
    """Take the signs' mean over the classes out: our own variation, not the paper's."""


DFA = comparison_recipes(
    "dfa",
    "direct feedback alignment",
    builder(f"{MODULE}:DFA"),
    ClassifierSettings(),
    Rates(digits=0.1, mnist=0.003, cifar_10=0.001),
)
SIGN = builder(f"{MODULE}:SignDFA", centred="centred")
CENTRED = comparison_recipes(
    "sdfa",
    "our variation of sDFA, centred signs",
    SIGN,
    SignDFASettings(centred=True),
    Rates(digits=0.3, mnist=0.01, cifar_10=0.001),
    suffix="-centred",
)
SIGN_DFA = (
    *comparison_recipes(
        "sdfa",
        "direct feedback of the error's sign",
        SIGN,
        SignDFASettings(),
        Rates(digits=0.01, mnist=0.01, cifar_10=0.003, conv=0.003),
    ),
    *(recipe for recipe in CENTRED if recipe.id.endswith("-centred")),  # of the perceptrons
)
DIRECT_KOLEN_POLLACK = comparison_recipes(
    "direct-kolen-pollack",
    "direct Kolen-Pollack",
    builder(f"{MODULE}:DirectKolenPollack"),
    ClassifierSettings(weight_decay=0.1),
    Rates(digits=0.1, mnist=0.003, cifar_10=0.001),
)
