"""Equilibrium propagation: the gradient from how a settled network gives way to a nudge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rule import Rule, add_gradient, first_nonfinite_layer, is_finite
from beyondprop.rules.relaxation.asymmetric import AsymmetricNetwork
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.sections import split
from beyondprop.rules.relaxation.settling import Contrast, Nudge, SettlingNetwork, States, halves

Nudging = Literal["symmetric", "one-sided", "random-sign"]
NUDGINGS = ("symmetric", "one-sided", "random-sign")


@dataclass(frozen=True)
class Settling:
    """How a batch settled.

    Attributes:
        names: Of the states.
        free: For each step of the free phase the residual of each state, the root of the mean square of s_{t+1} - s_t.
        nudged: The same of the nudged phase; empty where no targets were given.
    """

    names: list[str]
    free: list[list[float]]
    nudged: list[list[float]]


class SettlingRule(Rule):
    """What rules around a network that settles have in common: its free phase, prediction and checks.

    Args:
        network: Settles under a batch; its parameters are what is trained.
        free_steps: T1, steps of the free phase at most.
        tolerance: Residual of every state below which a phase ends; None takes all steps.
    """

    def __init__(self, network: SettlingNetwork, *, free_steps: int, tolerance: float | None) -> None:
        super().__init__()
        if not isinstance(network, SettlingNetwork):
            raise UserError(
                f"{type(self).__name__} needs a SettlingNetwork, such as ConvergentNetwork(layers, example), not "
                f"{type(network).__name__}; a plain classifier goes through for_classifier"
            )
        check_whole(1, free_steps=free_steps)
        if tolerance is not None:
            check_number(tolerance=tolerance)
        self.settling_network = network
        self.free_steps, self.tolerance = free_steps, tolerance

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Name the layer that can be no part of a convergent network."""
        if isinstance(network, SettlingNetwork):
            return None
        if type(network) is not nn.Sequential:
            return f"{type(network).__name__} is no nn.Sequential, whose layers could settle"
        try:
            sections = split(network)
        except UnsupportedNetworkError as error:
            return str(error)
        if all(section.activation is None for section in sections):
            return "the network has no activation: it has no states to settle"
        return None

    @classmethod
    def for_classifier(
        cls,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        feedback: Literal["symmetric", "asymmetric"] = "symmetric",
        **options: Any,
    ) -> Self:
        """Make a convergent network of a classifier's layers, which stay its own.

        Args:
            network: `nn.Sequential` of layers that `supports` names no objection to.
            example: One input batch.
            classes: As many scores as the network gives.
            feedback: By the transposed weights, or by weights of its own.
            **options: `readout`, `order` and `same_update` of the network, and the rule's own.
        """
        if reason := cls.supports(network):
            raise UnsupportedNetworkError(reason)
        own = {name: options.pop(name) for name in ("readout", "order", "same_update") if name in options}
        kind = {"symmetric": ConvergentNetwork, "asymmetric": AsymmetricNetwork}.get(feedback)
        if kind is None:
            raise UserError(f"feedback must be symmetric or asymmetric, got {feedback!r}")
        if "same_update" in own and feedback == "symmetric":
            raise UserError("same_update is an option of feedback='asymmetric': symmetric feedback has no weights")
        made = kind(network, example, **own)
        if made.outputs != classes:
            raise UnsupportedNetworkError(f"the network gives {made.outputs} scores, but there are {classes} classes")
        return cls(made, **options)

    def forward(self, x: Tensor, steps: int | None = None, tolerance: float | None = None) -> Tensor:
        """Predict by the scores at the end of the free phase.

        Where gradients are recorded they are recorded through all steps.

        Args:
            x: Inputs.
            steps: In the place of `free_steps`.
            tolerance: In the place of the rule's.
        """
        if torch.is_inference_mode_enabled():  # where a network may have to differentiate its primitive function
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(x.clone(), steps, tolerance)
        check_whole(1, steps=self.free_steps if steps is None else steps)
        if tolerance is not None:
            check_number(tolerance=tolerance)
        inputs = self.settling_network.prepare(x)
        states = self.settling_network.relax(
            inputs, None, steps or self.free_steps, tolerance=self.tolerance if tolerance is None else tolerance
        )
        return self.settling_network.scores(inputs, states)

    def measured(self, x: Tensor, inputs: Any, states: States, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of settled states, and the targets as the network takes them.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
        """
        network = self.settling_network
        y = network.targets(y, network.scores(inputs, states))
        loss = network.cost(inputs, states, y).mean()
        if not loss.isfinite():
            raise NonFiniteError(f"the loss is {loss.item()}, first seen in {self._where(x, states)}")
        return loss, y

    def _where(self, x: Tensor, *ends: States) -> str:
        """Name the input, or the first state that is not finite where the network has settled."""
        layers = getattr(self.settling_network, "layers", None)
        if not x.isfinite().all() or layers is None:
            return "the input" if not x.isfinite().all() else "a state"
        names = self.settling_network.names(ends[0])
        wrong = [name for states in ends for name, state in zip(names, states, strict=True) if not is_finite(state)]
        return f"the state of layer {wrong[0]}, which does not settle" if wrong else first_nonfinite_layer(layers, x)


class EquilibriumPropagation(SettlingRule):
    r"""Equilibrium propagation with three phases (Laborieux et al., arXiv 2006.03824, eqs. 6 to 9).

        free phase, T1 steps:     s^0 : a fixed point of s <- sigma(dPhi/ds)
        nudged, T2 steps each:    s^b : of s <- sigma(d(Phi - b L)/ds), from s^0, for b = +beta and b = -beta
        gradient ~ -( dPhi/dtheta(s^+beta) - dPhi/dtheta(s^-beta) ) / (2 beta)       averaged over the batch

    As beta tends to 0 this is the gradient of L at the free fixed point, with an error of order beta^2. With one nudge
    and the free phase in the place of the other (`"one-sided"`) the error is of order beta; a random sign of beta for
    each batch (`"random-sign"`) makes that order vanish on average over batches.

    No phase keeps a graph: memory does not grow with the number of steps. Both nudged phases run as one batch of twice
    the size. The loss that `backward` returns is that of the free phase.

    Args:
        network: `ConvergentNetwork`, `AsymmetricNetwork`, or any `SettlingNetwork` of the user's.
        beta: Strength of the nudge, in units of the loss of one sample.
        nudging: Which estimator.
        free_steps: T1. A step moves every state once.
        nudged_steps: T2. To reach the first state a nudge needs as many as there are states in synchronous order, half
            of that in even-odd order, and one in sequential order.
        tolerance: Residual of every state below which the free phase ends early, and a nudged phase below that share of
            how far the nudge has moved the state; None takes all steps. A nudged phase does not end before the nudge
            has reached the first state. Of `"one-sided"` and `"random-sign"` nudges the free phase of `backward` ends
            below beta times the tolerance.

    Raises:
        UserError: A setting is out of range, or the network does not settle.
        NonFiniteError: In `backward`, when the loss or a gradient is NaN or infinite.

    >>> classifier = nn.Sequential(nn.Linear(4, 8), nn.Hardtanh(0, 1), nn.Linear(8, 3))
    >>> rule = EquilibriumPropagation.for_classifier(classifier, torch.zeros(1, 4), 3)
    >>> rule.backward(torch.ones(2, 4), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: SettlingNetwork,
        *,
        beta: float = 0.5,
        nudging: Nudging = "symmetric",
        free_steps: int = 20,
        nudged_steps: int = 5,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(network, free_steps=free_steps, tolerance=tolerance)
        check_number(above=True, beta=beta)
        check_whole(1, nudged_steps=nudged_steps)
        if nudging not in NUDGINGS:
            raise UserError(f"nudging must be one of {', '.join(NUDGINGS)}, got {nudging!r}")
        self.beta, self.nudging, self.nudged_steps = beta, nudging, nudged_steps

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Settle, nudge, and take the gradient from the difference."""
        del phase
        network = self.settling_network
        with torch.no_grad():
            inputs = network.prepare(x)
            free = self.free(inputs)
            loss, y = self.measured(x, inputs, free, y)
            network.conclude(inputs)
            contrast = self.nudged(inputs, free, y)
            found = network.gradients(inputs, y, contrast)
            for name, parameter in self.named_parameters():
                if parameter in found and not is_finite(found[parameter]):
                    where = self._where(x, contrast.high, contrast.low)
                    raise NonFiniteError(
                        f"the gradient of {name} is not finite, first seen in {where}: check the data, or lower beta "
                        "or the learning rate"
                    )
        for parameter, gradient in found.items():
            add_gradient(parameter, gradient)
        return loss

    def free(self, inputs: Any, residuals: list[list[float]] | None = None) -> States:
        """Let the network settle without a nudge, as exactly as the estimate asks for.

        Two opposite nudges begin in the same states: what those still have to go both go, and the difference hardly
        tells. One nudge is compared with the free states themselves, and all that they still have to go counts.

        Args:
            inputs: What the network's `prepare` gave.
            residuals: Gets each step's residuals.
        """
        tolerance = self.tolerance
        if tolerance is not None and self.nudging != "symmetric":
            tolerance *= self.beta  # as the way to the nudged states is of order beta
        return self.settling_network.relax(inputs, None, self.free_steps, tolerance=tolerance, residuals=residuals)

    def nudged(self, inputs: Any, free: States, y: Tensor, residuals: list[list[float]] | None = None) -> Contrast:
        """Let the network settle again under its nudges.

        Args:
            inputs: What the network's `prepare` gave.
            free: The settled states.
            y: Targets, as the network takes them.
            residuals: Gets each step's residuals.
        """
        network, batch, beta = self.settling_network, len(y), self.beta
        options: dict[str, Any] = {"tolerance": self.tolerance, "residuals": residuals}
        if self.nudging == "symmetric":
            strengths = torch.cat([free[-1].new_full((batch,), sign * beta) for sign in (1, -1)])
            both = [torch.cat([state, state]) for state in free]
            nudge = Nudge(torch.cat([y, y]), strengths)
            both = network.relax(network.repeat(inputs, 2), both, self.nudged_steps, nudge, **options)
            high, low = halves(both)
            return Contrast(free, high, low, beta, -beta)
        if self.nudging == "random-sign" and torch.rand(()) < 0.5:
            beta = -beta
        nudge = Nudge(y, free[-1].new_full((batch,), beta))
        high = network.relax(inputs, free, self.nudged_steps, nudge, **options)
        return Contrast(free, high, free, beta, 0.0)

    @torch.no_grad()
    def settling(self, x: Tensor, y: Tensor | None = None) -> Settling:
        """Measure how a batch settles, step by step, and, with targets, how it does under the nudges."""
        network = self.settling_network
        free_curve: list[list[float]] = []
        nudged_curve: list[list[float]] = []
        inputs = network.prepare(x)
        free = self.free(inputs, free_curve)
        if y is not None:
            _, y = self.measured(x, inputs, free, y)
            self.nudged(inputs, free, y, nudged_curve)
        return Settling(network.names(free), free_curve, nudged_curve)
