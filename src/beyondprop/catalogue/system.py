"""What an entry of the catalogue is; free of torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beyondprop.recipe import Recipe

if TYPE_CHECKING:
    from beyondprop.rule import Rule
    from beyondprop.solver import Solver


@dataclass(frozen=True)
class Paper:
    """Where a system was published."""

    title: str
    authors: str
    year: int
    arxiv: str | None
    bibtex: str
    doi: str | None = None
    page: str | None = None

    @property
    def url(self) -> str | None:
        """The paper's page: arXiv's where it has one, or that of its DOI, or `page`."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else self.page


@dataclass(frozen=True)
class System:
    """One learning rule or solver, as its paper describes it.

    Args:
        id: Short name, the first part of its recipes' ids.
        name: Full name.
        family: How it assigns credit: signals, local, perturbation, relaxation; or solvers.
        paper: Where it was published.
        rule: `module:Class` of a `Rule` or `Solver`.
        page: Name of its page below `docs/rules`.
        recipes: Its experiments.
        quick: Variant of the recipe that trains in seconds with nothing to download.
    """

    id: str
    name: str
    family: str
    paper: Paper
    rule: str
    page: str
    recipes: tuple[Recipe, ...]
    quick: str = "digits"

    def load(self) -> type[Rule] | type[Solver]:
        """Import the class."""
        module, name = self.rule.split(":")
        loaded: type[Rule] | type[Solver] = getattr(importlib.import_module(module), name)
        return loaded
