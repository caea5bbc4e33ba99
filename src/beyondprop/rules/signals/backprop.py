"""Back-propagation under the library's contract: the baseline that every other rule is measured against."""

from __future__ import annotations

from torch import Tensor

from beyondprop.rules.network_rule import NetworkRule


class Backprop(NetworkRule):
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

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Differentiate the loss through the whole network."""
        del phase
        loss = self.measured(self.network(x), x, y)
        loss.backward()
        return loss
