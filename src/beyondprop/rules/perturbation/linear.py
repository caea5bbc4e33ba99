"""The vector-Jacobian products of linear layers, by hand: no layer need be evaluated again for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from beyondprop.networks.recurrent import StateLinear
from beyondprop.rules.signals.layers import computes_as


def by_hand(layer: nn.Module) -> bool:
    """Whether `products` knows the layer: torch's linear one or that of a state, with weights that are its own."""
    return computes_as(layer, (nn.Linear, StateLinear)) and not parametrize.is_parametrized(layer)


def products(layer: nn.Module, inputs: Sequence[Tensor], signal: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Multiply a signal with the inputs of a linear layer.

    Args:
        layer: One that is multiplied `by_hand`.
        inputs: With which it was called, in their order, shape (..., features).
        signal: Of its output's shape.

    Yields:
        The trainable parameters, and what belongs to each.
    """
    names = ("weight",) if computes_as(layer, (nn.Linear,)) else ("input_weight", "state_weight")
    given = {id(getattr(layer, name)): x for name, x in zip(names, inputs, strict=True)}
    rows = signal.reshape(-1, signal.shape[-1])
    for parameter in layer.parameters():
        if parameter.requires_grad:
            x = given.get(id(parameter))
            gradient = rows.sum(dim=0) if x is None else rows.T @ x.reshape(-1, x.shape[-1])
            yield parameter, gradient.to(parameter.dtype)
