"""The contract of a network that settles, and of one that has a primitive function, from which the rest follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

States = list[Tensor]


class Nudge(NamedTuple):
    """What pulls the output towards the targets (beta > 0), or pushes it away (beta < 0).

    Attributes:
        y: Targets, as the network's `targets` gives them.
        beta: Strength for each sample, shape (batch,).
    """

    y: Tensor
    beta: Tensor


class Contrast(NamedTuple):
    """The settled states whose difference tells the gradient, each a list over the states.

    Attributes:
        free: Without a nudge.
        high: With the nudge `beta_high`.
        low: With the nudge `beta_low`: the free states again where that is 0.
        beta_high: Strength of the first nudge, the same for all samples.
        beta_low: Of the second.
    """

    free: States
    high: States
    low: States
    beta_high: float
    beta_low: float


class SettlingNetwork(nn.Module, ABC):
    """A recurrent network that settles under a constant input: what equilibrium propagation needs of it.

    `prepare` makes from a batch x what stays the same while the states move; the default is x itself.
    """

    def prepare(self, x: Tensor) -> Any:
        """What stays the same while the states settle."""
        return x

    def repeat(self, inputs: Any, copies: int) -> Any:
        """The inputs of a batch of `copies` times as many samples, copy after copy."""
        return torch.cat([inputs] * copies)

    def conclude(self, inputs: Any) -> None:
        """Called once when the free phase of a training step is over."""

    @abstractmethod
    def initial_states(self, inputs: Any) -> States:
        """States from which the free phase starts, each of shape (batch, ...)."""

    @abstractmethod
    def step(self, inputs: Any, states: States, nudge: Nudge | None = None) -> States:
        """Move all states at once, by their values before."""

    @abstractmethod
    def scores(self, inputs: Any, states: States) -> Tensor:
        """The prediction, shape (batch, classes)."""

    @abstractmethod
    def cost(self, inputs: Any, states: States, y: Tensor) -> Tensor:
        """The loss L of each sample, shape (batch,); `y` as `targets` gives it."""

    @abstractmethod
    def gradients(self, inputs: Any, y: Tensor, contrast: Contrast) -> dict[nn.Parameter, Tensor]:
        """Estimate of the gradient of the mean loss, for the parameters that it reaches."""

    def targets(self, y: Tensor, scores: Tensor) -> Tensor:
        """Check targets, and bring them into the form that `cost` takes."""
        del scores
        return y

    def names(self, states: States) -> list[str]:
        """What the states are called in messages and pictures."""
        return [f"state {number}" for number in range(1, len(states) + 1)]

    def reach(self, states: States) -> int:
        """Steps after which a nudge of the output is felt in every state.

        Where all move at once it comes from one state to the next in a step: as many as there are states, at most.
        """
        return len(states)

    def trajectory(
        self, inputs: Any, states: States | None, steps: int, nudge: Nudge | None = None
    ) -> Iterator[States]:
        """Let the network settle, and give the states after each step.

        Args:
            inputs: What `prepare` gives.
            states: Where it starts; None for the initial ones.
            steps: How many.
            nudge: None for the free phase.
        """
        now = self.initial_states(inputs) if states is None else states
        for _ in range(steps):
            now = self.step(inputs, now, nudge)
            yield now

    def relax(
        self,
        inputs: Any,
        states: States | None,
        steps: int,
        nudge: Nudge | None = None,
        *,
        tolerance: float | None = None,
        residuals: list[list[float]] | None = None,
    ) -> States:
        """Let the network settle.

        Args:
            inputs: What `prepare` gives.
            states: Where it starts; None for the initial ones.
            steps: At most.
            nudge: None for the free phase.
            tolerance: Stop when no state's residual is above it. Under a nudge, when none is above that share of how
                far the state has come since the start, and the nudge is felt in every state: what a nudge does to a
                state is small, to one far from the output smaller still, and it is all that counts.
            residuals: Gets each step's residuals, one for each state.

        Returns:
            The last states.
        """
        start = self.initial_states(inputs) if states is None else states
        before = after = start
        least = 1 if nudge is None else self.reach(start)
        watched = tolerance is not None or residuals is not None
        for taken, after in enumerate(self.trajectory(inputs, states, steps, nudge), start=1):
            if watched:
                found = gaps(after, before)
                if residuals is not None:
                    residuals.append(found)
                if tolerance is not None and taken >= least:
                    ways = [1.0] * len(found) if nudge is None else gaps(after, start)
                    if all(left <= tolerance * way for left, way in zip(found, ways, strict=True)):
                        break
                before = list(after)
        return after


class PrimitiveNetwork(SettlingNetwork):
    r"""A settling network with a primitive function Phi (Ernoult et al., arXiv 1905.13633).

        s_n <- sigma( dPhi^b/ds_n ),     gradient ~ -( dPhi^b1/dtheta(s^b1) - dPhi^b0/dtheta(s^b0) ) / (b1 - b0)

    with Phi^b = Phi - b L. Write `initial_states`, `primitive`, `scores` and `cost`, and `squash` where sigma is not
    the identity: step and gradient follow by autograd. Each sample's Phi and L depend on its own states alone.
    """

    @abstractmethod
    def primitive(self, inputs: Any, states: States) -> Tensor:
        """Phi of each sample, shape (batch,)."""

    def squash(self, drives: States) -> States:
        """Apply sigma to dPhi/ds, state by state."""
        return drives

    def step(self, inputs: Any, states: States, nudge: Nudge | None = None) -> States:
        """Move all states at once, by the gradient of Phi - beta L."""
        traced = any(state.requires_grad for state in states) or torch.is_grad_enabled()
        with torch.enable_grad():
            held = [
                state.view_as(state) if state.requires_grad else state.detach().requires_grad_() for state in states
            ]
            total = self.primitive(inputs, held).sum()
            if nudge is not None:
                total = total - (nudge.beta * self.cost(inputs, held, nudge.y)).sum()
            found = torch.autograd.grad(total, held, create_graph=traced, materialize_grads=True)
        return self.squash(list(found))

    def gradients(self, inputs: Any, y: Tensor, contrast: Contrast) -> dict[nn.Parameter, Tensor]:
        """Differentiate Phi^b at both states with respect to the parameters, by autograd."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            high, low = (
                self.primitive(inputs, states).mean() - beta * self.cost(inputs, states, y).mean()
                for states, beta in ((contrast.high, contrast.beta_high), (contrast.low, contrast.beta_low))
            )
            estimate = (low - high) / (contrast.beta_high - contrast.beta_low)
            found = torch.autograd.grad(estimate, parameters, allow_unused=True)
        return {p: g for p, g in zip(parameters, found, strict=True) if g is not None}


def gaps(new: States, old: States) -> list[float]:
    """|s_{t+1} - s_t| of each state: the root of the mean square over samples and units."""
    norms = torch.stack([torch.linalg.vector_norm((a - b).detach()) for a, b in zip(new, old, strict=True)])
    return [norm / max(1, a.numel()) ** 0.5 for norm, a in zip(norms.tolist(), new, strict=True)]


def halves(states: Sequence[Tensor]) -> tuple[States, States]:
    """The two copies of a batch."""
    parts = [state.chunk(2) for state in states]
    return [first for first, _ in parts], [second for _, second in parts]
