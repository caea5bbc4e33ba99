"""Back-propagation under the library's contract: the baseline that every other rule is measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from beyondprop.errors import NonFiniteError
from beyondprop.rule import Rule, check_labels, first_nonfinite_layer


class Backprop(Rule):
    """Back-propagation of errors (Rumelhart, Hinton and Williams, 1986), by autograd.

        dL/dW_l = dL/dh_L · dh_L/dh_{L-1} ··· dh_{l+1}/dh_l · dh_l/dW_l

    Args:
        network: Any module; it is used as it is and never changed.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.

    Raises:
        UserError: In `backward` with the default loss, when a label is no class index.
        NonFiniteError: In `backward`, when the loss is NaN or infinite; nothing is added to any `.grad`.

    >>> import torch
    >>> rule = Backprop(torch.nn.Linear(4, 3))
    >>> loss = rule.backward(torch.ones(2, 4), torch.tensor([0, 2]))
    >>> rule.network.weight.grad.shape
    torch.Size([3, 4])
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.network = network
        self.loss = loss or nn.CrossEntropyLoss()
        self._classifies = loss is None  # what labels may be is otherwise known to the user's loss alone

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; `example` and `classes` are not needed."""
        del example, classes
        return cls(network, **options)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Differentiate the loss through the whole network."""
        del phase
        scores = self.network(x)
        if self._classifies and y.ndim == 1:
            y = check_labels(y, scores.shape[1])
        loss = self.loss(scores, y)
        if not loss.isfinite():
            where = first_nonfinite_layer(self.network, x)
            raise NonFiniteError(
                f"the loss is {loss.item()} and NaN or infinity appears first in {where}: "
                "check the data, or lower the learning rate"
            )
        loss.backward()
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's own output for x."""
        return self.network(x)
