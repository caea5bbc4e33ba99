"""From dataclass instances to flags and back: tyro makes the flags and their help, this makes its errors one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import textwrap
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from beyondprop.checks import suggestion
from beyondprop.errors import UserError
from beyondprop.recipe import Recipe, Settings

# https://no-color.org; tyro knows a variable of its own and reads it when it is imported.
if os.environ.get("NO_COLOR"):
    os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

SWITCHES = ("--json", "--quiet", "--resume", "--tensorboard", "--replace")
"""Flags without a value: what follows one of them may be the recipe."""

AS_THE_RUN: Any = tyro.conf.arg(help_behavior_hint="(default: as the run)")
"""Annotation of a flag of which the help shows this in place of a default."""

_KINDS = {int: "a whole number", float: "a number", str: "a word", Path: "a path"}


def parse(
    argv: list[str], prog: str, description: str, *, words: int = 0, without: tuple[str, ...] = (), **groups: Any
) -> tuple[list[str], SimpleNamespace]:
    """Read flags into dataclass instances; prints the help and leaves with `SystemExit` where it is asked for.

    Args:
        argv: What follows the command.
        prog: The command, with its positional words, for the usage line.
        description: A paragraph and examples, for the help.
        words: How many positional words may stand among the flags; -1 for any number.
        without: Fields that get no flag: names, or `GROUP.name` for those of one group.
        **groups: The dataclass instances by group name; their fields become flags, their values the defaults. None
            stands for a group that has none here.

    Returns:
        The positional words, and an object with an attribute for each group.

    Raises:
        UserError: A flag is unknown, lacks its value or has one of a wrong type, or there are too many words.
    """
    groups = {name: group for name, group in groups.items() if group is not None}
    # One group after the other, so that the help shows them apart.
    hidden = {name: _hidden(name, without) for name in groups}
    shown = {name: _hide(group, hidden[name]) for name, group in groups.items()}
    kind = make_dataclass("Flags", [(name, type(group), field(default=group)) for name, group in shown.items()])
    caught = io.StringIO()
    parsed: Any
    try:
        with contextlib.redirect_stderr(caught):
            parsed, rest = tyro.cli(
                kind,
                args=argv,
                prog=prog,
                description=_laid_out(description),
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_registry(),
                return_unknown_args=True,
            )
    except SystemExit as leaving:
        if leaving.code in {0, None}:
            raise
        raise UserError(f"{_condense(caught.getvalue())} (see `{prog} --help`)") from None
    known = [f"--{f.name.replace('_', '-')}" for n, g in groups.items() for f in fields(g) if f.name not in hidden[n]]
    for word in rest:
        if word.startswith("-"):
            name = word.split("=")[0].replace("_", "-")
            raise UserError(f"there is no flag {name} here{suggestion(name, known)} (see `{prog} --help`)")
    if 0 <= words < len(rest):
        from beyondprop.catalogue import SYSTEMS  # noqa: PLC0415  # of all recipes, which most commands do without

        if any(rest[words] == recipe.id for system in SYSTEMS for recipe in system.recipes):
            raise UserError(f"the recipe comes first: put {rest[words]} in front of the flags")
        raise UserError(f"unexpected argument {rest[words]!r} (see `{prog} --help`)")
    back = {name: _copy(type(group), getattr(parsed, name)) for name, group in groups.items()}
    return rest, SimpleNamespace(**back)


def split_recipe(argv: list[str], default: str | None) -> tuple[str, list[str]]:
    """Take the recipe from the arguments: it comes first, for it decides which flags there are.

    Switches of the command may stand before it; a recipe's own may not.

    Raises:
        UserError: There is none, and no default.
    """
    for index, word in enumerate(argv):
        if not word.startswith("-"):
            return word, argv[:index] + argv[index + 1 :]
        if word not in SWITCHES:
            break
    if default is None and not {"-h", "--help"}.intersection(argv):
        raise UserError("name a recipe first, such as noprop-dt/digits (`beyondprop list` names them all)")
    return default or "noprop-dt/digits", argv


def some_settings(recipe: Recipe) -> str:
    """Flags for an example that change settings which the recipe has."""
    return "--epochs 5 --lr-schedule one-cycle" if isinstance(recipe.settings, Settings) else "--batch-size 64"


def with_examples(text: str, command: str, recipe: Recipe, *flags: str) -> str:
    """Put examples of a recipe under a help text.

    Args:
        text: Paragraphs.
        command: Of beyondprop.
        recipe: With whatever flag it cannot do without.
        *flags: Of one example each.
    """
    lines = (
        " ".join(filter(None, ("beyondprop", command, recipe.id, recipe.settings.missing, words))) for words in flags
    )
    return "\n  ".join((f"{text}\n\nExamples:", *lines)) + "\n"


def _hidden(group: str, without: tuple[str, ...]) -> set[str]:
    return {name.removeprefix(f"{group}.") for name in without}


def _hide(group: Any, names: set[str]) -> Any:
    """Make a dataclass instance of a subclass in which some of the fields get no flag."""
    kinds = get_type_hints(type(group))  # annotations are words of the modules that they were written in
    hidden = [
        (f.name, Annotated[kinds[f.name], tyro.conf.Fixed, tyro.conf.Suppress], field(default=getattr(group, f.name)))
        for f in fields(group)
        if f.name in names
    ]
    if not hidden:
        return group
    kind = type(group)
    return _copy(make_dataclass(kind.__name__, hidden, bases=(kind,), frozen=True, kw_only=True), group)


def _copy(kind: type, values: Any) -> Any:
    """An instance of a dataclass with the values of another one's fields of the same names."""
    return kind(**{f.name: getattr(values, f.name) for f in fields(kind)})


def _registry() -> ConstructorRegistry:
    """Errors that speak to users, and `auto` for None, where tyro would show `{None}|INT` and Python's own messages."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def plain(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        chosen = info.type
        optional = get_origin(chosen) in {Union, UnionType} and NoneType in get_args(chosen)
        if optional:
            chosen = next(argument for argument in get_args(chosen) if argument is not NoneType)
        if chosen not in _KINDS or (chosen in {str, Path} and not optional):
            return None

        def read(words: list[str]) -> Any:
            if optional and words[0] == "auto":
                return None
            try:
                return chosen(words[0])
            except ValueError:
                raise ValueError(f"{words[0]!r} is not {_KINDS[chosen]}") from None

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=chosen.__name__.upper(),
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, chosen) or (optional and value is None),
            str_from_instance=lambda value: ["auto" if value is None else str(value)],
        )

    return registry


def _laid_out(text: str) -> str:
    """Wrap paragraphs and keep lists. Wrapped lines are indented, since tyro joins those that begin with a letter."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(
        part if "\n  " in part else textwrap.indent(textwrap.fill(part, 76), "  ") for part in paragraphs
    )


def _condense(printed: str) -> str:
    """The first paragraph below the title of tyro's error box, on one line."""
    # Where stdout is no UTF-8, the box has no sides and its rules are dashes.
    rows = [row.strip("╭╮╰╯│─ ") for row in printed.splitlines()][1:]
    begun = itertools.dropwhile(_is_rule, rows)
    paragraph = itertools.takewhile(lambda row: not _is_rule(row), begun)
    message = " ".join(paragraph).removeprefix("Error parsing ").rstrip(".")
    if lacking := re.match(r"Missing value for argument \W*(--[\w-]+)", message):
        return f"{lacking[1]} needs a value"
    return message or "the command line cannot be read"


def _is_rule(row: str) -> bool:
    return not row.strip("-")
