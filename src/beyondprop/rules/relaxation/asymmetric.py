"""Convergent networks with feedback weights of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.rules.relaxation.connections import Connection, Conv, Gradients, Held, Linear, Stage
from beyondprop.rules.relaxation.convergent import Clamped, LayeredNetwork, Order, Readout, averaged
from beyondprop.rules.relaxation.settling import Contrast, States


class AsymmetricNetwork(LayeredNetwork):
    r"""A network of layers that settles, with feedback weights of its own (arXiv 2006.03824, Section 2.4).

        s_n <- sigma_n( f_n(s_{n-1}; W_n) + (df_{n+1}(s_n; B_{n+1})/ds_n)^T s_{n+1} - beta dL/ds_n )

    It has no primitive function but one for each state, phi_n = <s_n, f_n(s_{n-1}; W_n)> + <f_{n+1}(s_n; B_{n+1}),
    s_{n+1}>. By the different update phi_n is differentiated where s_n is the nudged state and the others are free
    ones, and W_n and B_n learn differently. By the same update both receive the mean of what each would receive in a
    symmetric network: together with weight decay B_n aligns with W_n (Kolen and Pollack, 1994).

    Args:
        layers: As `ConvergentNetwork`; without batch norm between states.
        example: As `ConvergentNetwork`.
        readout: As `ConvergentNetwork`.
        order: As `ConvergentNetwork`.
        same_update: Whether W_n and B_n get the same update.

    Raises:
        UnsupportedNetworkError: As `ConvergentNetwork`.

    >>> layers = [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)]
    >>> list(dict(AsymmetricNetwork(layers, torch.zeros(1, 4)).feedback.named_parameters()))
    ['2.weight']
    """

    def __init__(
        self,
        layers: nn.Sequential | Iterable[nn.Module],
        example: Tensor,
        *,
        readout: Readout = "softmax",
        order: Order = "even-odd",
        same_update: bool = True,
    ) -> None:
        super().__init__(layers, example, readout=readout, order=order)
        self.same_update = same_update
        self.feedback = nn.ModuleDict()
        self.returns: list[Connection] = []
        for section in self.sections[1:]:
            self.returns.append(Connection([self._own(stage) for stage in section.connection.stages]))

    def _own(self, stage: Stage) -> Stage:
        """The same stage with weights of its own, where it has weights."""
        if not isinstance(stage, Linear | Conv):
            if any(True for _ in stage.module.parameters()):
                raise UnsupportedNetworkError(
                    f"layer {stage.name} ({type(stage.module).__name__}) stands between states: its scale has no "
                    "feedback of its own"
                )
            return stage
        twin = copy.deepcopy(stage.module)
        twin.reset_parameters()
        twin.register_parameter("bias", None)
        self.feedback[stage.name.replace(".", "_")] = twin
        return type(stage)(stage.name, twin)

    def _pull(self, number: int, now: States, push: Any, held: Held, base: Tensor) -> Tensor:
        """Return base and what state `number` sends down by its feedback weights."""
        back = self.returns[number - 1]
        memory = back.push(now[number - 1], held)[1] if back.remembers else push(number)[1]
        return back.pull(now[number], memory, held, base)

    def gradients(self, inputs: Clamped, y: Tensor, contrast: Contrast) -> dict[nn.Parameter, Tensor]:
        """By the different or the same update."""
        twice = self.repeat(inputs, 2)
        high, low, free = contrast.high, contrast.low, contrast.free
        moved = [a - b for a, b in zip(high, low, strict=True)]
        found = self._readout_gradients(inputs, y, contrast, twice)
        up = self.sections[0].connection.gradients(inputs.x, moved[0], inputs.held)
        for number in range(1, len(self.sections)):
            forward, back = self.sections[number].connection, self.returns[number - 1]
            both = torch.cat([high[number - 1], low[number - 1]])
            if self.same_update:
                signal = torch.cat([high[number], -low[number]])
                mine, theirs = (way.gradients(both, signal, twice.held) for way in (forward, back))
                common = [(a + b) / 2 for a, b in zip(weights(mine), weights(theirs), strict=True)]
                up += replaced(mine, common) + replaced(theirs, common)
            else:
                up += forward.gradients(free[number - 1], moved[number], inputs.held)
                up += back.gradients(both, torch.cat([free[number], -free[number]]), twice.held)
        found += [(parameter, -gradient) for parameter, gradient in up]
        return averaged(found, len(inputs.x) * (contrast.beta_high - contrast.beta_low))


def weights(gradients: Gradients) -> list[Tensor]:
    """Those of weights, without those of biases."""
    return [gradient for parameter, gradient in gradients if parameter.ndim > 1]


def replaced(gradients: Gradients, common: list[Tensor]) -> Gradients:
    """The same, with others in the weights' place."""
    rest = iter(common)
    return [(parameter, next(rest) if parameter.ndim > 1 else gradient) for parameter, gradient in gradients]
