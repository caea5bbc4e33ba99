"""What commands over several recipes share: the words at the front, and the settings that all of them have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from beyondprop.cli.arguments import SWITCHES
from beyondprop.recipe import Recipe

AUTO = "auto"  # each recipe's own


def split_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take the words at the front; switches may stand before and between them."""
    front = list(itertools.takewhile(lambda word: not word.startswith("-") or word in SWITCHES, argv))
    words = [word for word in front if not word.startswith("-")]
    switches = [word for word in front if word.startswith("-")]
    return words, [*switches, *argv[len(front) :]]


def shared_settings(recipes: Sequence[Recipe]) -> Any:
    """The settings that all recipes have: a value that all share, or `auto` where they differ (None, but for words)."""
    kinds = [type(recipe.settings).__mro__ for recipe in recipes]
    common = next(kind for kind in kinds[0] if all(kind in others for others in kinds))
    hints = get_type_hints(common)
    described = []
    for f in fields(common):
        kind, values = hints[f.name], {getattr(recipe.settings, f.name) for recipe in recipes}
        default = values.pop() if len(values) == 1 else AUTO if get_origin(kind) is Literal else None
        if default == AUTO:
            kind = Literal[(AUTO, *get_args(kind))]
        described.append((f.name, kind if default is not None else kind | None, field(default=default)))
    return make_dataclass("Shared", described, bases=(common,), frozen=True, kw_only=True)()


def chosen_settings(shared: Any) -> dict[str, Any]:
    """Of parsed shared settings those that have a value for all recipes."""
    values = {f.name: getattr(shared, f.name) for f in fields(shared)}
    return {name: value for name, value in values.items() if value not in (None, AUTO)}
