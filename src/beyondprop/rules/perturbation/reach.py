"""What noise in the outputs of layers can reach, and teach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from beyondprop.errors import UnsupportedNetworkError


def check_reached(weights: Mapping[str, nn.Parameter], layers: Iterable[nn.Module], advice: str) -> None:
    """Refuse a parameter that no noise would ever teach: one held by a module whose children have some, too.

    Args:
        weights: The parameters that are to learn, by name.
        layers: Those whose outputs are moved.
        advice: What to do instead.

    Raises:
        UnsupportedNetworkError: One belongs to none of the layers; the message names it.

    >>> check_reached({"scale": nn.Parameter()}, [], "perturb weights")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    beyondprop.errors.UnsupportedNetworkError: parameter scale belongs to no innermost layer, ...: perturb weights
    """
    taught = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for name, parameter in weights.items():
        if id(parameter) not in taught:
            raise UnsupportedNetworkError(
                f"parameter {name} belongs to no innermost layer, whose output noise could move: {advice}"
            )
