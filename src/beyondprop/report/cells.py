"""Cells that several tables of results have: the accuracy, the paper's figure and whose it is, the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beyondprop.catalogue import SYSTEMS
from beyondprop.report.markdown import escaped

_WITH_MOMENTUM = {"SGD", "NAG", "RMSprop", ""}
_OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "nag": "NAG", "rmsprop": "RMSprop"}
_SHARED = ("batch_size", "validation")
_OF_SOLVERS = {  # which of their own settings tell the most; of others all are told
    "rescnet": ("layers", "filters", "patch", "grid", "ridge"),
    "pcanet": ("first", "patch", "block", "batch_size", "passes", "rate"),
    "threshold": ("method", "hidden", "beta"),
    "gchp": ("decays", "iterations"),
    "network-inference": ("nodes", "steps", "interval", "noise", "hidden", "windows", "rounds"),
}


class Sources:
    """Whose the papers' figures of a table are, as lettered notes below it."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def letter(self, result: Mapping[str, Any]) -> str:
        """The letter of a result's source, which is added if it is new."""
        source = result["paper"]["source"]
        if "arXiv" not in source:  # it tells the place alone
            arxiv = next((s.paper.arxiv for s in SYSTEMS if s.id == result["recipe"].partition("/")[0]), None)
            source = f"arXiv {arxiv}, {source}" if arxiv else source
        if source not in self._told:
            self._told.append(source)
        return _letters(self._told.index(source))

    def below(self, table: str) -> str:
        """The table with its notes, where it has any."""
        if not self._told:
            return table
        listed = "\n".join(f"- ({_letters(i)}) {escaped(text)}" for i, text in enumerate(self._told))
        return f"{table}\n\nWhere the published figures are from:\n\n{listed}"


def accuracy(result: Mapping[str, Any]) -> str:
    """In percent, with the deviation over seeds where there are several."""
    return spread(result, "test_accuracy", ".2f", ".2f", scale=100)


def spread(result: Mapping[str, Any], name: str, form: str, error: str, scale: float = 1) -> str:
    """A figure's mean, with its deviation over seeds where there are several.

    >>> spread({"seeds": [0, 1], "metrics": {"nll": {"mean": 1.25, "std": 0.5}}}, "nll", ".2f", ".1g")
    '1.25 ± 0.5'
    """
    figure = result["metrics"][name]
    deviation = f" ± {scale * figure['std']:{error}}" if len(result["seeds"]) > 1 else ""
    return f"{scale * figure['mean']:{form}}{deviation}"


def published(result: Mapping[str, Any], sources: Sources) -> tuple[str, str]:
    """The paper's accuracy with the letter of its source, and the difference from it; nothing where it has none."""
    figure = (result["paper"] or {}).get("test_accuracy")
    if figure is None:
        return "", ""
    mean = result["metrics"]["test_accuracy"]["mean"]
    return f"{100 * figure:.2f} ({sources.letter(result)})", f"{100 * (mean - figure):+.2f}"


def settings(result: Mapping[str, Any]) -> str:
    """The settings of a run that matter in every training; of a solver, which takes no steps, some of its own."""
    given = result["settings"]
    if "learning_rate" not in given:
        own = _OF_SOLVERS.get(result["recipe"].partition("/")[0], [n for n in given if n not in _SHARED])
        return ", ".join(f"{n.replace('_', ' ')} {_short(given[n])}" for n in own if n in given)
    recipes = {recipe.id: recipe for system in SYSTEMS for recipe in system.recipes}
    recipe = recipes.get(result["recipe"])
    its_own = recipe is not None and getattr(recipe.settings, "own_optimizer", False)
    named = "" if its_own else _OPTIMIZERS.get(given.get("optimizer", ""), given.get("optimizer", ""))
    momentum = given.get("momentum", 0.0) if named in _WITH_MOMENTUM else 0.0
    told = [
        f"rate {given['learning_rate']:g}, batch {given['batch_size']}",
        named,
        momentum and f"momentum {momentum:g}",
        given["weight_decay"] and f"decay {given['weight_decay']:g}",
        given["lr_schedule"],
        "" if given.get("augment", "none") == "none" else given["augment"],
        given.get("ema") and f"average {given['ema']:g}",
        given.get("validation") and f"{given['validation']} held out",
    ]
    return ", ".join(filter(None, told))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _letters(number: int) -> str:
    """Name a note: a to z, then aa and on.

    >>> [_letters(number) for number in (0, 25, 26)]
    ['a', 'z', 'aa']
    """
    return (_letters(number // 26 - 1) if number >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[number % 26]
