"""Direct feedback alignment, of the error or its sign, fixed or learned, on the networks that rules share."""

from __future__ import annotations

from beyondprop.recipes.classifiers import ClassifierSettings, builder, comparison_recipes

MODULE = "beyondprop.rules.signals.direct_feedback"
RATES = dict.fromkeys(("digits", "mnist", "mnist-conv", "fashion-mnist", "cifar-10"), 1e-3)

DFA = comparison_recipes("dfa", "direct feedback alignment", builder(f"{MODULE}:DFA"), ClassifierSettings(), RATES)
SIGN_DFA = comparison_recipes(
    "sdfa", "direct feedback of the error's sign", builder(f"{MODULE}:SignDFA"), ClassifierSettings(), RATES
)
DIRECT_KOLEN_POLLACK = comparison_recipes(
    "direct-kolen-pollack",
    "direct Kolen-Pollack",
    builder(f"{MODULE}:DirectKolenPollack"),
    ClassifierSettings(weight_decay=0.1),
    RATES,
)
