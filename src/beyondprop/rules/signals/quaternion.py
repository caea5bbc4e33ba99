"""Back-propagation through quaternion layers: the rule is that of real networks, the layers bring the calculus."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.layers.quaternion.conversion import to_quaternion
from beyondprop.rules.signals.backprop import Backprop


class QuaternionBackprop(Backprop):
    """Quaternion back-propagation (Pöppelbaum and Schwung, arXiv 2212.13082), by layers that have it as their backward.

        y = W ⊗ x + b:    dx = W* ⊗ G,    dW = G ⊗ x*,    db = G

    G is four times the GHR derivative ∂L/∂y* of the loss, that is, its gradient with respect to the four real
    components; so is every gradient here, and learning rates mean what they mean in real networks. Of a network that
    has quaternion layers already, this is `Backprop`; `for_classifier` converts a real one.

    Args:
        network: Any module; quaternion layers are those of `beyondprop.layers.quaternion`.
        loss: As of `Backprop`.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> rule = QuaternionBackprop.for_classifier(network, torch.ones(2, 8), 3)
    >>> loss = rule.backward(torch.ones(2, 8), torch.tensor([0, 2]))
    >>> rule.network[0].weight.grad.shape  # components, outputs, inputs
    torch.Size([4, 4, 2])
    """

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Whether any layer can be converted."""
        del example
        try:
            to_quaternion(network)
        except UnsupportedNetworkError as error:
            return str(error)
        return None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Convert a copy of the classifier, layer by layer where widths divide by four.

        Raises:
            UnsupportedNetworkError: No layer can be converted; the message names each with the reason.
        """
        del example, classes
        return cls(to_quaternion(network).network, **options)
