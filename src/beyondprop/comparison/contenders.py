"""What is compared: a name, a recipe and its settings, or the reason why it cannot take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from beyondprop.catalogue import compared_recipe, find_system
from beyondprop.errors import UserError
from beyondprop.recipe import Recipe, SolverSettings


@dataclass(frozen=True)
class Contender:
    """One line of a comparison.

    Attributes:
        name: By which pages and tables call it: a rule's id, or a recipe's.
        recipe: What is trained.
        settings: With which settings, before anything is tuned.
    """

    name: str
    recipe: Recipe
    settings: SolverSettings


def rule_contenders(
    rules: Sequence[str], dataset: str, network: str = "mlp", changed: Mapping[str, Any] | None = None
) -> list[Contender]:
    """Make contenders of systems on one network.

    Args:
        rules: Ids of the catalogue.
        dataset: A named data set of images.
        network: One of the plain classifiers, for all of them; a solver brings its own.
        changed: Settings that take another value, where a contender has one of this name.

    Raises:
        UserError: There is no such system or data set, or one stands twice.
    """
    systems = [find_system(rule) for rule in rules]
    _refuse_repeated(rules)
    recipes = [compared_recipe(system, dataset, network) for system in systems]
    return [
        Contender(system.id, recipe, _changed(recipe, changed)) for system, recipe in zip(systems, recipes, strict=True)
    ]


def recipe_contenders(recipes: Sequence[Recipe], changed: Mapping[str, Any] | None = None) -> list[Contender]:
    """Make contenders of recipes of one data set, whatever networks they train.

    Args:
        recipes: Of classifiers.
        changed: As in `rule_contenders`.

    Raises:
        UserError: They are of several data sets, predict numbers, or one stands twice.
    """
    _refuse_repeated([recipe.id for recipe in recipes])
    for recipe in recipes:
        if recipe.dataset != recipes[0].dataset:
            raise UserError(
                f"{recipes[0].id} is trained on {recipes[0].dataset} and {recipe.id} on {recipe.dataset}: compare "
                "recipes of the same data"
            )
        if recipe.data is not None or recipe.drawn is not None:
            raise UserError(f"{recipe.id} does not classify a named data set: compare recipes that do")
    return [Contender(recipe.id, recipe, _changed(recipe, changed)) for recipe in recipes]


def _changed(recipe: Recipe, changed: Mapping[str, Any] | None) -> SolverSettings:
    own = {f.name for f in fields(recipe.settings)}
    return replace(recipe.settings, **{name: value for name, value in (changed or {}).items() if name in own})


def _refuse_repeated(names: Sequence[str]) -> None:
    if not names:
        raise UserError("name at least one rule or recipe to compare")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} stands twice: name each rule or recipe once")
