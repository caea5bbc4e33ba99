"""The catalogue: one entry a system, from which the command line, the tables and the common tests are made.

Nothing here imports torch: a system's class is imported by `System.load`, a recipe's experiment by its build function.
"""

from __future__ import annotations

from beyondprop.catalogue import fitted, in_time, layers, local, perturbation, relaxation, signals, targets
from beyondprop.catalogue.system import Paper, System
from beyondprop.checks import closest, suggestion
from beyondprop.errors import UserError
from beyondprop.recipe import Recipe
from beyondprop.recipes import compared

__all__ = ["SYSTEMS", "Paper", "System", "compared_recipe", "find_recipe", "find_system"]

SYSTEMS: tuple[System, ...] = (
    *signals.SYSTEMS,
    *targets.SYSTEMS,
    *layers.SYSTEMS,
    *local.SYSTEMS,
    *perturbation.SYSTEMS,
    *relaxation.SYSTEMS,
    *fitted.SYSTEMS,
    *in_time.SYSTEMS,
)


def find_system(system_id: str) -> System:
    """Find a system.

    Raises:
        UserError: No system has this id; the message names the closest.
    """
    for system in SYSTEMS:
        if system.id == system_id:
            return system
    known = [system.id for system in SYSTEMS]
    meant = suggestion(system_id.partition("/")[0], known)  # of a recipe, its system
    raise UserError(f"there is no system {system_id!r}{meant} (known: {', '.join(known)})")


def compared_recipe(system: System, dataset: str, network: str = "mlp") -> Recipe:
    """Make the recipe of a system on a data set and a network that other systems share: `SYSTEM/DATA-compared`.

    Raises:
        UserError: There is no such data set, or the system classifies nothing.
    """
    if system.quick != "digits":  # every system that classifies begins with them
        raise UserError(
            f"{system.id} does not classify images: compare its own recipes, such as {system.id}/{system.quick}"
        )
    solver = system.family == "solvers"
    return compared.compared(system.id, system.rule, system.recipes, dataset, solver=solver, network=network)


def find_recipe(recipe_id: str) -> Recipe:
    """Find a recipe, one of the catalogue or `SYSTEM/DATA-compared`.

    Raises:
        UserError: No recipe has this id; the message names the closest, or those of the system that is named.
    """
    recipes = {recipe.id: recipe for system in SYSTEMS for recipe in system.recipes}
    if recipe_id in recipes:
        return recipes[recipe_id]
    if recipe_id.endswith(compared.SUFFIX):
        named, _, dataset = recipe_id.removesuffix(compared.SUFFIX).partition("/")
        return compared_recipe(find_system(named), dataset)
    named, slash, variant = recipe_id.lower().partition("/")
    named = {system.name.lower().replace(" ", "-"): system.id for system in SYSTEMS}.get(named, named)
    own = {recipe.id.partition("/")[2]: recipe.id for s in SYSTEMS for recipe in s.recipes if s.id == named}
    if own:
        found = closest(variant, own)
        hint = f"; did you mean {own[found]!r}?" if found else f": those of {named} are {', '.join(own.values())}"
    elif slash and closest(named, [system.id for system in SYSTEMS]) is None:
        hint = ""  # what is alike is the name of the data alone
    else:
        hint = suggestion(recipe_id, recipes)
    raise UserError(f"there is no recipe {recipe_id!r}{hint} (`beyondprop list` names them all)")
