"""Targets on a chain of units: what all rules share in which every layer learns towards an activation of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number
from beyondprop.errors import NonFiniteError
from beyondprop.rule import is_finite
from beyondprop.rules.network_rule import NetworkRule, count_terms
from beyondprop.rules.signals.chain import Chain, Evaluation


class TargetRule(NetworkRule):
    r"""A rule whose units learn towards targets.

        ht_L = h_L - eta dl/dh_L,    grad theta_i = (df_i/dtheta_i)^T (h_i - ht_i) / (eta N)

    with l the loss of one sample and N the batch: the gradient of sum_i |h_i - ht_i|^2 / (2 eta), summed over units
    and averaged over the batch, with h_{i-1} and ht_i held fixed. Divided by eta it has the scale of
    back-propagation's, which it is where h_i - ht_i = eta (dh_L/dh_i)^T dl/dh_L; the last unit's always is.

    Args:
        network: Children that run one after another; see `chain.Chain`.
        example: One input batch, run once without a trace, to see the shapes of the activations.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        target_step: eta, how far the output's target stands off, in units of its gradient for one sample.

    Raises:
        UnsupportedNetworkError: The network is no chain; the message names the place.
        UserError: `target_step` is no finite number above 0.
        NonFiniteError: In `backward`, when the loss or a unit's target is NaN or infinite; the message names the layer.
    """

    follows_gradient = False

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        target_step: float = 0.1,
    ) -> None:
        super().__init__(network, loss)
        check_number(target_step=target_step, above=True)
        self.target_step = target_step
        self.chain = Chain(network, example)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Chains of layers alone."""
        return Chain.objection(network)

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; `classes` is not needed."""
        del classes
        return cls(network, example, **options)

    @abstractmethod
    def steps(self, clean: Evaluation, output: Tensor) -> list[Tensor]:
        """Bring the output's target to all hidden units.

        Args:
            clean: The evaluation of the batch.
            output: ht_L - h_L, shape (batch, ...), in the parameters' own precision.

        Returns:
            ht_i - h_i for i = 1..L-1, each of h_i's shape.
        """

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Set the output's target, bring it to all units, and let each learn towards its own."""
        del phase
        clean = self.chain.run(x)
        loss, error, scale = self.output_error(clean, x, y)
        with full_precision(x):
            steps = self.finite(self.steps(clean, error * -scale))
        clean.teach([step / -scale for step in steps], error)
        return loss

    def output_error(self, clean: Evaluation, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Compute the loss and its gradient with respect to the output, which the loss's own parameters receive too.

        Returns:
            The loss; dL/dh_L; and eta N, by which ht_L - h_L = -eta N dL/dh_L.
        """
        scores = clean.value(-1)
        loss, error = self.output_derivative(scores, x, y)
        return loss, error, self._distance(scores, y)

    def _distance(self, scores: Tensor, y: Tensor) -> Tensor | float:
        """How far the output's target stands off in units of the loss's gradient: eta N, without a wait for it."""
        terms = count_terms(None, self.loss, scores, y)
        return self.target_step * (terms.to(scores.dtype) if isinstance(terms, Tensor) else terms)

    def finite(self, steps: list[Tensor]) -> list[Tensor]:
        """Refuse steps of hidden units that are NaN or infinite; the device is asked once for all."""
        if steps and not torch.stack([step.sum() for step in steps]).isfinite().all():
            for unit, step in zip(self.chain.units, steps, strict=False):  # the output's target is the loss's
                if not is_finite(step):
                    raise NonFiniteError(
                        f"the target of layer {unit.name} holds NaN or infinity: lower the learning rates, that of the "
                        "feedback first"
                    )
        return steps

    def targets(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Compute the targets of a batch, for those who look at them: no `.grad` and no statistics are moved.

        Returns:
            ht_i, shape (batch, ...), of every unit, by the name of its layer.
        """
        with torch.enable_grad():
            clean = self.chain.run(x, training=False)
            scores = clean.value(-1).requires_grad_()
            loss = self.measured(scores, x, y)
            (error,) = torch.autograd.grad(loss, scores)
            output = error * -self._distance(scores, y)
            with full_precision(x):
                steps = [*self.steps(clean, output), output]
        named = zip(self.chain.units, range(len(steps)), steps, strict=True)
        return {unit.name: (clean.value(i) + step).detach() for unit, i, step in named}


def full_precision(x: Tensor) -> torch.autocast:
    """Switch autocast off: differences of nearby activations would be lost in bfloat16's rounding."""
    return torch.autocast(x.device.type, enabled=False)
