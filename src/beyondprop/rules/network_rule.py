"""What rules around one unchanged network have in common: the network, its loss, and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.inputs import check_network
from beyondprop.rule import Rule, check_labels, first_nonfinite_layer

Terms = Callable[[Tensor], float]


class NetworkRule(Rule):
    """A rule that trains one network, used as it is, against a loss on its output.

    Args:
        network: Any module that `supports` has no objection to; it is never changed.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        supports: Takes the place of the class's `supports`, for rules whose options decide what they can train.

    Raises:
        UnsupportedNetworkError: The rule cannot train this network; the message names the layer.
        UserError: `network` is no module, or `loss` no function.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        supports: Callable[[nn.Module], str | None] | None = None,
    ) -> None:
        super().__init__()
        check_network(network)
        if reason := (supports or self.supports)(network):
            raise UnsupportedNetworkError(reason)
        if isinstance(loss, Tensor | type) or not (loss is None or callable(loss)):
            raise UserError(f"loss must map (network(x), y) to a scalar, such as nn.MSELoss(), got {_named(loss)}")
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

    def loss_parameters(self) -> list[nn.Parameter]:
        """What is trained in the loss, without what it shares with the network."""
        theirs = {id(parameter) for parameter in self.network.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in theirs]

    def checked_targets(self, y: Tensor, scores: torch.Size) -> Tensor:
        """Refuse labels that the default loss cannot take.

        Args:
            y: Targets.
            scores: Shape of the network's output.

        Returns:
            The targets; class indices as int64.

        Raises:
            UserError: With the default loss, when a label is no class index, or a target no probability.
        """
        if self._classifies and y.is_floating_point() and y.ndim > 1 and (y < 0).any():
            raise UserError(
                "targets of the cross-entropy, which is the default, are class indices or probabilities, and some are "
                "below 0: for a regression give loss=nn.MSELoss()"
            )
        if self._classifies and len(scores) == 3 and scores[:2] == y.shape != (scores[0], scores[2]):
            raise UserError(
                f"labels of every step, {tuple(y.shape)}, for scores {tuple(scores)}: give loss=step_cross_entropy (of "
                "beyondprop.networks.sequences)"
            )
        if self._classifies and (y.ndim == 1 or (len(scores) == 2 and not y.is_floating_point())):
            return check_labels(y, scores[1])
        return y

    def measured(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss, or one of each replica, and check it.

        Args:
            scores: The network's output for x.
            x: The batch, by which a layer that is not finite is found.
            y: Targets.

        Raises:
            UserError: With the default loss, when a label is no class index.
            NonFiniteError: The loss is NaN or infinite.
        """
        loss = self.loss(scores, self.checked_targets(y, scores.shape))
        return self.finite_losses(loss, x)

    def finite_losses(self, losses: Tensor, x: Tensor, remedy: str = "the learning rate") -> Tensor:
        """Refuse losses that are not finite.

        Args:
            losses: Of any shape.
            x: The batch, by which the layer is found.
            remedy: What may be lowered.

        Returns:
            The losses.

        Raises:
            NonFiniteError: One is NaN or infinite.
        """
        if not losses.isfinite().all():
            where = first_nonfinite_layer(self.network, x)
            mend = "clean the data" if where == "the input" else f"check the data, or lower {remedy}"
            raise NonFiniteError(f"the loss is NaN or infinite, and that appears first in {where}: {mend}")
        return losses

    def output_derivative(self, scores: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss and its derivative with respect to the output; the loss's own parameters receive theirs.

        Args:
            scores: The network's output for x; nothing passes on below it.
            x: As `measured`.
            y: As `measured`.
        """
        free = scores.detach().requires_grad_()
        loss = self.measured(free, x, y)
        loss.backward()
        assert free.grad is not None
        return loss, free.grad


def _named(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def count_terms(terms: Terms | None, loss: Callable[[Tensor, Tensor], Tensor], scores: Tensor, y: Tensor) -> Any:
    """Count the terms whose mean a loss is: times that, its derivative is that of each term's own loss.

    Args:
        terms: The user's own count of a batch's targets, or None.
        loss: Of torch's losses `reduction` and `ignore_index` are read.
        scores: The network's output.
        y: Targets.

    Returns:
        What `terms` gives. Without it 1 for `reduction="sum"`; the number of class indices in `y` that are not to be
        ignored, one for each sample, position or pixel; and the batch's length for targets of any other kind: numbers,
        or of the scores' own shape. A number, or a tensor that holds it, so that no device is waited for.

    Raises:
        UserError: `terms` gives no positive number.
    """
    if terms is not None:
        count = float(terms(y))
        if not 0 < count < math.inf:
            raise UserError(f"terms must give a positive number for a batch of targets, got {count}")
        return count
    if getattr(loss, "reduction", "mean") == "sum":
        return 1
    if y.is_floating_point() or y.shape == scores.shape:
        return len(y)
    ignored = getattr(loss, "ignore_index", None)
    return y.numel() if ignored is None else (y != ignored).sum()
