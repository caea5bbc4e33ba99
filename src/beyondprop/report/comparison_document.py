"""What is read from the document of a comparison by its page and by tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Contenders = dict[str, dict[str, Any]]


def ranked(document: Mapping[str, Any]) -> Contenders:
    """The contenders that were trained, the most accurate first."""
    trained = {name: each for name, each in document["contenders"].items() if "failed" not in each}
    return dict(sorted(trained.items(), key=lambda pair: -pair[1]["metrics"]["test_accuracy"]["mean"]))


def mean_angle(contender: Mapping[str, Any]) -> float | None:
    """The mean over layers of the angle to back-propagation's gradient, degrees; None where there is none."""
    angles = [layer["angle"]["mean"] for layer in contender["alignment"].values()]
    return sum(angles) / len(angles) if angles else None


def edges_told(contenders: Contenders) -> str:
    """Name the searches that chose the lowest or the highest learning rate that they had tried; empty for none.

    >>> trials = [{"learning_rate": rate} for rate in (0.1, 0.2, 0.4)]
    >>> edges_told({"dfa": {"trials": trials, "chosen": {"learning_rate": 0.1}}})
    'More trials might find more for searches that chose the lowest rate that they had tried: dfa.'
    """
    found: dict[str, list[str]] = {}
    for name, each in contenders.items():
        tried = {trial["learning_rate"] for trial in each["trials"]}
        if len(tried) > 1:
            for end, rate in (("lowest", min(tried)), ("highest", max(tried))):
                if each["chosen"]["learning_rate"] == rate:
                    found.setdefault(end, []).append(name)
    said = "; ".join(f"the {end} rate that they had tried: {', '.join(names)}" for end, names in found.items())
    return f"More trials might find more for searches that chose {said}." if said else ""
