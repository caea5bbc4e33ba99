"""Back-propagation through the steps by which a network settles: what equilibrium propagation is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from beyondprop.checks import check_whole
from beyondprop.rules.relaxation.equilibrium import SettlingRule
from beyondprop.rules.relaxation.settling import SettlingNetwork


class BackpropThroughSettling(SettlingRule):
    r"""Back-propagation through time of a settling network (Laborieux et al., arXiv 2006.03824, Section 2.2).

        s_T1-K from T1 - K steps without a graph,     then K steps with one,     gradient = dL(s_T1)/dtheta

    The network, its steps and its prediction are those of `EquilibriumPropagation`; memory grows with K.

    Args:
        network: As `EquilibriumPropagation`.
        free_steps: T1.
        through: K, the last steps, which are differentiated; None for all.
        tolerance: Residual of every state below which the steps without a graph, and a prediction, end early.

    Raises:
        UserError: A setting is out of range, or the network does not settle.
        NonFiniteError: In `backward`, when the loss is NaN or infinite.

    >>> from torch import nn
    >>> classifier = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> rule = BackpropThroughSettling.for_classifier(classifier, torch.zeros(1, 4), 3, free_steps=10, through=4)
    >>> rule.backward(torch.ones(2, 4), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: SettlingNetwork,
        *,
        free_steps: int = 20,
        through: int | None = None,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(network, free_steps=free_steps, tolerance=tolerance)
        self.through = free_steps if through is None else through
        check_whole(1, through=self.through)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Settle, the last steps with a graph, and differentiate."""
        del phase
        network, traced = self.settling_network, min(self.through, self.free_steps)
        inputs = network.prepare(x)
        states = None
        if traced < self.free_steps:
            with torch.no_grad():
                states = network.relax(inputs, None, self.free_steps - traced, tolerance=self.tolerance)
        states = network.relax(inputs, states, traced)
        loss, _ = self.measured(x, inputs, states, y)
        network.conclude(inputs)
        loss.backward()
        return loss
