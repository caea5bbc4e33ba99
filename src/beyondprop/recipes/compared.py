"""Recipes made on demand, `SYSTEM/DATA-compared`: any system on any named data set, on one of the plain classifiers.

`beyondprop compare --rules` trains these. They make the rule by `for_classifier` with its own defaults, so that every
rule of the catalogue has one and none needs a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from beyondprop.checks import suggestion
from beyondprop.errors import UserError
from beyondprop.recipe import Experiment, Recipe, Settings, SolverSettings
from beyondprop.recipes.classifiers import ClassifierSettings, builder

if TYPE_CHECKING:
    from beyondprop.data import Splits

SUFFIX = "-compared"
DATA = ("digits", "mnist", "fashion-mnist", "cifar-10", "cifar-100")
HELD_OUT = {"digits": 150}  # images by which a comparison chooses and draws curves; 5000 of the larger sets
OPTIMIZER = ("learning_rate", "weight_decay", "lr_schedule", "optimizer", "momentum")


@dataclass(frozen=True, kw_only=True)
class ComparedSettings(ClassifierSettings):
    """Settings of a rule on a network that it shares with the rules it is compared with."""


@dataclass(frozen=True, kw_only=True)
class ComparedSolverSettings(SolverSettings):
    """Settings of a solver, which makes its own network."""

    batch_size: int = 1000


def compared(
    system: str, rule_class: str, recipes: Sequence[Recipe], dataset: str, *, solver: bool, network: str = "mlp"
) -> Recipe:
    """Make the recipe of a system on a data set.

    Args:
        system: Its id.
        rule_class: `module:Class`, as the catalogue names it.
        recipes: The system's own: optimizer, learning rate and schedule are those of the one on the same data and
            network, else of one on the same data, else of the one on the digits; where such a recipe has an optimizer
            of its own, AdamW with the common rate.
        dataset: One of `DATA`.
        solver: Whether the class is a solver.
        network: One of the plain classifiers of `ClassifierSettings`.

    Raises:
        UserError: There is no such data set.
    """
    if dataset not in DATA:
        raise UserError(
            f"--data {dataset} is no data set that rules are compared on{suggestion(dataset, DATA)}: "
            f"choose from {', '.join(DATA)}"
        )
    held_out = HELD_OUT.get(dataset, 5000)
    if solver:

        def build(_settings: ComparedSolverSettings, splits: Splits) -> Experiment:
            import importlib

            import torch

            module, name = rule_class.split(":")
            kind = getattr(importlib.import_module(module), name)
            example = torch.zeros(2, *splits.train.images.shape[1:])
            return Experiment(kind.for_classifier(torch.nn.Identity(), example, splits.train.classes))

        summary = f"{system} with its own network on {dataset}"
        return Recipe(
            f"{system}/{dataset}{SUFFIX}", summary, dataset, ComparedSolverSettings(validation=held_out), build
        )
    settings = ComparedSettings(
        network=network,  # type: ignore[arg-type]  # a name that is none is refused where the network is made
        hidden=64 if dataset == "digits" else 1000,
        validation=held_out,
    )
    near = _nearest(recipes, dataset, network)
    if near is not None:
        known = {name: getattr(near, name) for name in OPTIMIZER if hasattr(near, name)}
        settings = replace(settings, **known)
    summary = f"{system} with its defaults on the {network} network, {dataset}"
    return Recipe(f"{system}/{dataset}{SUFFIX}", summary, dataset, settings, builder(rule_class))


def _nearest(recipes: Sequence[Recipe], dataset: str, network: str) -> Settings | None:
    """The settings of the system's recipe that is most like a comparison, where one trains a classifier in steps."""
    stepped = {
        recipe.id.partition("/")[2]: recipe.settings for recipe in recipes if isinstance(recipe.settings, Settings)
    }
    for variant in (f"{dataset}-{network}", dataset, f"{dataset}-mlp", "digits", "digits-mlp"):
        found = stepped.get(variant)
        # A rate is worth something with its own optimizer alone, and some recipes make another than settings can name.
        if found is not None and hasattr(found, "optimizer") and not getattr(found, "own_optimizer", False):
            return found
    return None
