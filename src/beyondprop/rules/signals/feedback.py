"""Feedback weights: the matrices by which signals come back, beside those of the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Feedback(nn.Module):
    """Feedback weights by the name of the layer that they serve.

    Args:
        weights: Tensors by layer name.
        learned: Whether they are parameters that the rule trains, or fixed.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, learned: bool = False) -> None:
        super().__init__()
        for name, weight in weights.items():
            if learned:
                self.register_parameter(_key(name), nn.Parameter(weight))
            else:
                self.register_buffer(_key(name), weight)
        self._names = tuple(weights)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, _key(name))
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)


def _key(name: str) -> str:
    """A layer's name as torch accepts it for a parameter."""
    return "of " + name.replace(".", "/")


def kaiming_uniform(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draw from U(-b, b) with b = sqrt(6 / fan_in), fan_in the product of all dimensions after the first.

    Args:
        shape: Of the tensor.
        like: A tensor of the dtype and device to be used.
    """
    bound = math.sqrt(6 / math.prod(shape[1:]))
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(-bound, bound)
