"""The catalogue: one entry a system, from which the command line, the tables and the common tests are made.

Nothing here imports torch: a system's class is imported by `System.load`, a recipe's experiment by its build function.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beyondprop.checks import suggestion
from beyondprop.errors import UserError
from beyondprop.recipes import backprop
from beyondprop.recipes.noprop import continuous as noprop_ct
from beyondprop.recipes.noprop import discrete as noprop_dt
from beyondprop.recipes.noprop import flow as noprop_fm
from beyondprop.recipes.recipe import Recipe

if TYPE_CHECKING:
    from beyondprop.rule import Rule, Solver


@dataclass(frozen=True)
class Paper:
    """Where a system was published."""

    title: str
    authors: str
    year: int
    arxiv: str | None
    bibtex: str
    doi: str | None = None

    @property
    def url(self) -> str | None:
        """The paper's page: arXiv's where it has one."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else None


@dataclass(frozen=True)
class System:
    """One learning rule or solver, as its paper describes it.

    Args:
        id: Short name, the first part of its recipes' ids.
        name: Full name.
        family: How it assigns credit: signals, local, perturbation, relaxation; or solvers.
        paper: Where it was published.
        rule: `module:Class` of a `Rule` or `Solver`.
        recipes: Its experiments; `ID/digits` is the one that trains in seconds with nothing to download.
    """

    id: str
    name: str
    family: str
    paper: Paper
    rule: str
    recipes: tuple[Recipe, ...]

    def load(self) -> type[Rule] | type[Solver]:
        """Import the class."""
        module, name = self.rule.split(":")
        loaded: type[Rule] | type[Solver] = getattr(importlib.import_module(module), name)
        return loaded


NOPROP = Paper(
    "NoProp: Training Neural Networks without Back-propagation or Forward-propagation",
    "Qinyu Li, Yee Whye Teh, Razvan Pascanu",
    2025,
    "2503.24322",
    """@article{li2025noprop,
  title   = {{NoProp}: Training Neural Networks without Back-propagation or Forward-propagation},
  author  = {Li, Qinyu and Teh, Yee Whye and Pascanu, Razvan},
  journal = {arXiv preprint arXiv:2503.24322},
  year    = {2025}
}""",
)

SYSTEMS: tuple[System, ...] = (
    System(
        "bp",
        "Back-propagation",
        "signals",
        Paper(
            "Learning representations by back-propagating errors",
            "David E. Rumelhart, Geoffrey E. Hinton, Ronald J. Williams",
            1986,
            None,
            """@article{rumelhart1986learning,
  title   = {Learning representations by back-propagating errors},
  author  = {Rumelhart, David E. and Hinton, Geoffrey E. and Williams, Ronald J.},
  journal = {Nature},
  volume  = {323},
  number  = {6088},
  pages   = {533--536},
  year    = {1986},
  doi     = {10.1038/323533a0}
}""",
            doi="10.1038/323533a0",
        ),
        "beyondprop.rules.signals.backprop:Backprop",
        backprop.RECIPES,
    ),
    System(
        "noprop-dt",
        "NoProp in discrete time",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropDT",
        noprop_dt.RECIPES,
    ),
    System(
        "noprop-ct",
        "NoProp in continuous time",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropCT",
        noprop_ct.RECIPES,
    ),
    System(
        "noprop-fm",
        "NoProp by flow matching",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropFM",
        noprop_fm.RECIPES,
    ),
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
    raise UserError(f"there is no system {system_id!r}{suggestion(system_id, known)} (known: {', '.join(known)})")


def find_recipe(recipe_id: str) -> Recipe:
    """Find a recipe.

    Raises:
        UserError: No recipe has this id; the message names the closest.
    """
    recipes = {recipe.id: recipe for system in SYSTEMS for recipe in system.recipes}
    if recipe_id in recipes:
        return recipes[recipe_id]
    # A system alone is the likeliest slip, and its digits recipe the likeliest meaning.
    guess = f"{recipe_id}/digits" if f"{recipe_id}/digits" in recipes else recipe_id
    raise UserError(f"there is no recipe {recipe_id!r}{suggestion(guess, recipes)} (`beyondprop list` names them all)")
