"""Layer-local difference reconstruction: feedback whose Jacobian becomes the transpose of the layer's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.rule import add_gradient
from beyondprop.rules.signals.chain import Evaluation
from beyondprop.rules.signals.mirrors import Activations
from beyondprop.rules.signals.target_propagation import DTP
from beyondprop.rules.signals.targets import TargetRule, full_precision

Number = TypeVar("Number", int, float)


class LDRL(DTP):
    r"""Difference target propagation with a layer-local loss of the feedback (Ernoult et al., arXiv 2201.13415).

        ht_{i-1} = h_{i-1} + g_i(ht_i) - g_i(h_i)
        loss of g_i:  -2 <e, g_i(f_i(h_{i-1} + e)) - g_i(h_i)> + |g_i(h_i + n) - g_i(h_i)|^2,    e, n ~ N(0, sigma_i^2)

    For small noise the loss is sigma^2 |J_g - J_f^T|^2, up to what g cannot change, with the Jacobians of g_i at h_i
    and of f_i at h_{i-1}: it is least where feedback transposes, and then targets carry back-propagation's gradients,
    up to their curvature. Losses are summed over activations and averaged over the batch.

    Of a batch, which is evaluated once for all phases, the feedback of the unit i takes n_i optimizer steps, each
    with noise of its own, at the network's weights as they are; then the network takes one, by the feedback of after.
    All feedback networks learn side by side, for none of their losses depends on another's weights: with n_i of 20,
    30 and 55 a batch has 55 phases and one. A g_i whose steps are used up has no `.grad` in the phases that follow,
    so that no momentum moves it on.

    g_i is the unit backwards (see `mirrors.Mirror`): max-pooling is undone where the batch itself had its maxima, noise
    or not, then come the unit's activation and its transposed convolution.

    Args:
        network: Children that run one after another; see `chain.Chain`.
        example: One input batch, run once without a trace, to see the shapes of the activations.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        target_step: beta, how far the output's target stands off, in units of its gradient for one sample. Gradients
            are divided by it.
        feedback_steps: n_i, of each unit but the first, in their order; or one number for all.
        noise: sigma_i, likewise.
        feedback_rate: The feedback's learning rates, likewise; by default the optimizer's.

    Raises:
        UnsupportedNetworkError: The network is no chain, or a unit has no mirror; the message names the layer.
        UserError: A number is out of range, or there are too few or too many.
        NonFiniteError: In `backward`, when a loss is NaN or infinite.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, 6), nn.ELU(), nn.Linear(6, 3))
    >>> rule = LDRL(network, torch.zeros(1, 4), feedback_steps=(1, 2))
    >>> rule.phases
    ('feedback 1', 'feedback 2', None)
    >>> for phase in rule.phases:
    ...     loss = rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), phase)
    """

    activations: ClassVar[Activations] = "inside"

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        target_step: float = 0.7,
        feedback_steps: int | Sequence[int] = 10,
        noise: float | Sequence[float] = 0.1,
        feedback_rate: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(network, example, loss, target_step=target_step)
        units = len(self.chain.units) - 1
        self.steps_of = _each(feedback_steps, units, "feedback_steps")
        self.noise_of = _each(noise, units, "noise")
        self.rate_of = None if feedback_rate is None else _each(feedback_rate, units, "feedback_rate")
        self._evaluated: tuple[list[tuple[int, int]], tuple[Tensor, Tensor], Evaluation] | None = None
        self.phases = (*(f"feedback {step}" for step in range(1, max(self.steps_of, default=0) + 1)), None)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Let the feedback of this phase learn, or the network.

        Returns:
            The loss of what learns.
        """
        if phase is None:
            self._evaluated = None
            return TargetRule.assign_credit(self, x, y, phase)
        step = self.phases.index(phase)
        clean = self._evaluation(x, y)
        learning = [index for index, steps in enumerate(self.steps_of, 1) if step < steps]
        with full_precision(x):
            total = torch.stack([self.unit_loss(clean, index) for index in learning]).sum()
            for parameter, gradient in self.differentiated(total) if total.requires_grad else []:
                add_gradient(parameter, gradient)
        return total

    def _evaluation(self, x: Tensor, y: Tensor) -> Evaluation:
        """Evaluate a batch, once for all of its phases as long as the network stays as it is."""
        held = [x, y, *self.network.parameters(), *self.network.buffers()]
        known = [(id(tensor), tensor._version) for tensor in held]
        known += [(id(module), module.training) for module in self.network.modules()]
        if self._evaluated is None or self._evaluated[0] != known:
            clean = self.chain.run(x, training=False)
            with torch.no_grad():
                self.measured(clean.value(-1), x, y)  # what is wrong with the data is told as ever
            self._evaluated = known, (x, y), clean  # held, so that no other tensor takes their place
        return self._evaluated[2]

    def unit_loss(self, clean: Evaluation, index: int) -> Tensor:
        """The loss of a unit's feedback network, for noise that is drawn here; units are counted from 0."""
        below, value, sigma = clean.value(index - 1), clean.value(index), self.noise_of[index - 1]
        e, n = torch.randn_like(below).mul_(sigma), torch.randn_like(value).mul_(sigma)
        with torch.no_grad():
            ahead = clean.again(index, below + e)
        moved, here, noisy = self.back(clean, index, torch.cat([ahead, value, value + n])).chunk(3)
        return ((noisy - here).square().sum() - 2 * (e * (moved - here)).sum()) / clean.batch

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network; and the feedback of each unit, without weight decay, by its own learning rate."""
        network, _ = super().parameter_groups()
        groups = [network]
        for index, (unit, mirror) in enumerate(zip(self.chain.units[1:], self.feedback.children(), strict=True)):
            params = [parameter for parameter in mirror.parameters() if parameter.requires_grad]
            group = {"name": f"feedback of {unit.name}", "params": params, "weight_decay": 0.0}
            groups.append(group if self.rate_of is None else group | {"lr": self.rate_of[index]})
        return groups


def _each(given: Number | Sequence[Number], units: int, name: str) -> tuple[Number, ...]:
    """One number for each unit with feedback."""
    numbers = tuple(given) if isinstance(given, Sequence) else (given,) * units
    if len(numbers) != units:
        raise UserError(f"{name} has {len(numbers)} numbers for {units} units with feedback: give one each, or one")
    for number in numbers:
        if name == "feedback_steps":
            check_whole(1, **{name: number})
        else:
            check_number(above=True, **{name: number})
    return numbers
