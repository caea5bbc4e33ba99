"""What a run's settings have that its recipe's have not."""

from __future__ import annotations

from typing import Any


def changed_flags(settings: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Flags that make a recipe's own settings those of a run.

    >>> changed_flags({"epochs": 3, "hidden": 64}, {"epochs": 10, "hidden": 64})
    '--epochs 3'
    """
    changed = {n: v for n, v in settings.items() if n in defaults and as_json(v) != as_json(defaults[n])}
    words = []
    for name, value in changed.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words.append(" ".join([f"--{flag}", *map(str, value)]))
        else:
            words.append(f"--{flag} {'auto' if value is None else value}")
    return " ".join(words)


def as_json(value: Any) -> Any:
    """As JSON has it."""
    return [as_json(each) for each in value] if isinstance(value, list | tuple) else value
