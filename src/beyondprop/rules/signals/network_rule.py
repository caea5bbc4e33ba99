"""What rules around one unchanged network have in common: the network, its loss, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError
from beyondprop.rule import Rule, check_labels, first_nonfinite_layer


class NetworkRule(Rule):
    """A rule that trains one network, used as it is, against a loss on its output.

    Args:
        network: Any module that `supports` has no objection to; it is never changed.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.

    Raises:
        UnsupportedNetworkError: The rule cannot train this network; the message names the layer.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        if reason := self.supports(network):
            raise UnsupportedNetworkError(reason)
        self.network = network
        self.loss = loss or nn.CrossEntropyLoss()
        self._classifies = loss is None  # what labels may be is otherwise known to the user's loss alone

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; `example` and `classes` are not needed."""
        del example, classes
        return cls(network, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's own output for x."""
        return self.network(x)

    def measured(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss and check it.

        Args:
            scores: The network's output for x.
            x: The batch, by which a layer that is not finite is found.
            y: Targets.

        Raises:
            UserError: With the default loss, when a label is no class index.
            NonFiniteError: The loss is NaN or infinite.
        """
        if self._classifies and y.ndim == 1:
            y = check_labels(y, scores.shape[1])
        loss = self.loss(scores, y)
        if not loss.isfinite():
            where = first_nonfinite_layer(self.network, x)
            raise NonFiniteError(
                f"the loss is {loss.item()} and NaN or infinity appears first in {where}: "
                "check the data, or lower the learning rate"
            )
        return loss
