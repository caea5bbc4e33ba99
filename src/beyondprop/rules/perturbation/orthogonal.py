"""Directions of activities that stand at right angles to each other, though layers are met one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from beyondprop.errors import UserError


class OrthogonalDirections:
    """Directions u^k at right angles, that project the gradient ∇ onto their span: U/K Σ_k (∇·u^k) u^k / |u^k|².

    Each direction runs through all layers, U units together. The first is drawn as layers are met, the others as a
    whole, for then all shapes are known; each is made orthogonal to those before it, sample by sample, or over the
    whole batch where samples have no signal of their own. With as many directions as units nothing is left to chance.

    Args:
        count: K, number of directions.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._frame: list[list[Tensor]] = []
        self._apart = False

    def drawing(self, noise: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Make the function that gives each layer's output its noise, in one pass over the layers.

        Args:
            noise: Draws it, of the shape of what it is given.

        Raises:
            UserError: There are more directions than units.
        """
        if not self._frame:
            return noise
        if self.count > (units := self._units(self._frame[0])):
            raise UserError(f"there are no {self.count} orthogonal directions among {units} units")
        parts = iter(self._orthogonal([noise(part) for part in self._frame[0]]))
        return lambda _value: next(parts)

    def weighted(self, change: Tensor, direction: list[Tensor]) -> Tensor:
        """Weigh how the loss changed in a pass by U / |u|², and keep the direction for the passes to come.

        Args:
            change: Of each sample's loss, or of one loss for all.
            direction: The noise of all layers.
        """
        self._apart = change.ndim > 0
        self._frame.append(direction)
        return change * self._units(direction) / self._product(direction, direction)

    def _orthogonal(self, direction: list[Tensor]) -> list[Tensor]:
        for _ in range(2):  # the second time takes off what rounding left
            for earlier in self._frame:
                share = self._product(direction, earlier) / self._product(earlier, earlier)
                direction = [u - self._beside(share, u) * v for u, v in zip(direction, earlier, strict=True)]
        return direction

    def _product(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        pairs = zip(first, second, strict=True)
        products: Any = ((u * v).reshape(len(u), -1).sum(dim=1) if self._apart else (u * v).sum() for u, v in pairs)
        total: Tensor = sum(products)
        return total

    def _beside(self, share: Tensor, like: Tensor) -> Tensor:
        return share.view(-1, *[1] * (like.ndim - 1)) if self._apart else share

    def _units(self, direction: list[Tensor]) -> int:
        return sum(u.numel() // (len(u) if self._apart else 1) for u in direction)
