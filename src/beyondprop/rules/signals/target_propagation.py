"""Difference target propagation: targets go down from unit to unit by learned feedback networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import NonFiniteError
from beyondprop.rule import add_gradient, is_finite
from beyondprop.rules.signals.chain import Evaluation
from beyondprop.rules.signals.mirrors import Activations, mirror_objection, mirrors
from beyondprop.rules.signals.targets import TargetRule, full_precision

Gradients = list[tuple[nn.Parameter, Tensor]]


class Learned(NamedTuple):
    """What comes of a batch.

    Attributes:
        steps: ht_i - h_i for i = 1..L-1; none where the feedback learns alone.
        gradients: Of what learns of the feedback.
        loss: The sum of the feedback's losses.
    """

    steps: list[Tensor]
    gradients: Gradients
    loss: Tensor


class LearnedTargets(TargetRule):
    r"""What rules share whose targets come by feedback that is learned beside the network.

    Of a batch, both gradients are taken at the weights as they are: forward pass, the network's gradients by the
    feedback of before, the feedback's gradients by the same activations; then the optimizer moves both. With
    `feedback_steps=n` the feedback takes n - 1 steps more on the same batch before that, each with noise of its own.

    With `pretraining` or `extra_epochs` the rule has the stages "both" and "feedback". A loop of the user's, which sets
    no `rule.stage`, trains both; `fit` walks through `passes`, which begin with the feedback.

    Args:
        network, example, loss, target_step: As `TargetRule`.
        noise: sigma, the standard deviation of what is added to activations, from which the feedback learns.
        feedback_steps: The feedback's optimizer steps for one batch.
        pretraining: Epochs in which the feedback alone learns, before the network does.
        extra_epochs: Passes over the data in which the feedback alone learns, after each epoch.
        feedback_rate: The feedback's learning rate; by default the optimizer's.
        feedback_decay: The feedback's weight decay, as the optimizer takes it: torch's SGD and Adam add it to the
            gradient, which is a penalty of decay / 2 times the squared weights; AdamW shrinks the weights beside it.

    Raises:
        UserError: A number is out of range.
        NonFiniteError: In `backward`, when the loss or what the feedback learns from is NaN or infinite.
    """

    stage_span = "epoch"
    feedback: nn.Module

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        target_step: float = 0.1,
        noise: float = 0.1,
        feedback_steps: int = 1,
        pretraining: int = 0,
        extra_epochs: int = 0,
        feedback_rate: float | None = None,
        feedback_decay: float = 0.0,
    ) -> None:
        super().__init__(network, example, loss, target_step=target_step)
        check_number(noise=noise, above=True)
        check_number(feedback_decay=feedback_decay)
        if feedback_rate is not None:
            check_number(feedback_rate=feedback_rate)
        check_whole(1, feedback_steps=feedback_steps)
        check_whole(0, pretraining=pretraining, extra_epochs=extra_epochs)
        self.noise, self.pretraining, self.extra_epochs = noise, pretraining, extra_epochs
        self.feedback_rate, self.feedback_decay = feedback_rate, feedback_decay
        self.phases = (*["feedback"] * (feedback_steps - 1), None)
        if pretraining or extra_epochs:
            self.stages = ("both", "feedback")  # the first is what a loop of the user's gets that sets none

    @abstractmethod
    def learn(self, clean: Evaluation, output: Tensor | None) -> Learned:
        """Bring the output's target down, and differentiate the feedback's losses.

        Args:
            clean: The evaluation of the batch.
            output: ht_L - h_L; None where the feedback alone learns.
        """

    def passes(self, epochs: int) -> list[tuple[int, str | None]]:
        """The feedback's own epochs first, then each epoch with its extra passes."""
        if self.stages == (None,):
            return super().passes(epochs)
        found: list[tuple[int, str | None]] = [(epoch, "feedback") for epoch in range(1, self.pretraining + 1)]
        for epoch in range(self.pretraining + 1, self.pretraining + epochs + 1):
            found += [(epoch, "both"), *[(epoch, "feedback")] * self.extra_epochs]
        return found

    def teaches_network(self, phase: str | None = None) -> bool:
        """Not where the feedback learns alone."""
        return phase is None and self.stage != "feedback"

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Take both gradients at the weights as they are.

        Returns:
            The network's loss; the feedback's, a sum over units, where it learns alone.
        """
        both = self.teaches_network(phase)
        with full_precision(x) if self.learning() else nullcontext():  # bfloat16's rounding is as large as the noise
            clean = self.chain.run(x, training=both)
        if not both:
            with torch.no_grad():
                self.measured(clean.value(-1), x, y)  # what is wrong with the data is told as ever
            with full_precision(x):
                _, gradients, loss = self.learn(clean, None)
        else:
            loss, error, scale = self.output_error(clean, x, y)
            with full_precision(x):
                steps, gradients, _ = self.learn(clean, error * -scale)
            self.finite(steps)
            clean.teach([step.div_(-scale) for step in steps], error)
        for parameter, gradient in gradients:
            add_gradient(parameter, gradient)
        return loss

    def learning(self) -> list[nn.Parameter]:
        """The feedback's parameters that are not frozen."""
        return [parameter for parameter in self.feedback.parameters() if parameter.requires_grad]

    def differentiated(self, loss: Tensor) -> Gradients:
        """Differentiate the sum of the feedback's losses, of which each depends on one unit's feedback."""
        if not loss.isfinite():
            raise NonFiniteError(
                f"the loss of the layers' feedback is {loss.item()}: lower its learning rate or the network's"
            )
        parameters = self.learning()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [(p, gradient) for p, gradient in zip(parameters, found, strict=True) if gradient is not None]

    def noises(self, values: list[Tensor]) -> list[Tensor]:
        """Draw noise for activations, one draw for all: their losses never meet, and each unit's is independent."""
        largest = max(values, key=Tensor.numel)
        # In float32 at most: float64 takes five times as long, and noise needs no more digits.
        drawn = torch.randn(largest.numel(), dtype=torch.float32, device=largest.device)
        drawn = drawn.to(largest.dtype).mul_(self.noise)
        return [drawn[: value.numel()].view(value.shape) for value in values]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network; and the feedback, with its own learning rate and weight decay."""
        feedback = {"name": "feedback", "params": self.learning(), "weight_decay": self.feedback_decay}
        if self.feedback_rate is not None:
            feedback["lr"] = self.feedback_rate
        theirs = {id(parameter) for parameter in self.feedback.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in theirs]
        return [{"name": "network", "params": rest}, feedback]


class DTP(LearnedTargets):
    r"""Difference target propagation (Lee et al., arXiv 1412.7525; Meulemans et al., arXiv 2006.14331, eq. 4).

        ht_{i-1} = h_{i-1} + g_i(ht_i) - g_i(h_i)
        loss of g_i:  |g_i(f_i(h_{i-1} + e)) - (h_{i-1} + e)|^2 / sigma^2,    e ~ N(0, sigma^2)

    A feedback network g_i of each unit but the first brings targets down; its difference at target and activation
    takes out what g_i gets wrong. It learns to invert f_i around the activations: as an autoencoder of one unit. Losses
    are summed over activations and averaged over the batch. See `mirrors.Mirror` for g_i.

    `pretraining` is the paper's DTP with pretraining.

    Args: as `LearnedTargets`.

    Raises:
        UnsupportedNetworkError: The network is no chain, or a unit has no mirror; the message names the layer.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    >>> rule = DTP(network, example=torch.zeros(1, 4))
    >>> rule.feedback[0].layer  # from the second unit to the first
    Linear(in_features=6, out_features=8, bias=True)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    activations: ClassVar[Activations] = "outside"

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, example, loss, **options)
        self.feedback = mirrors(self.chain, self.activations)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Chains of linear layers and convolutions, with what a `Mirror` knows between them."""
        return mirror_objection(network)

    def steps(self, clean: Evaluation, output: Tensor) -> list[Tensor]:
        """Walk down from the output."""
        found: list[Tensor] = []
        with torch.no_grad():
            for index in range(len(clean) - 1, 0, -1):
                output = self._step(clean, index, output)
                found.append(output)
        return found[::-1]

    def _step(self, clean: Evaluation, index: int, step: Tensor) -> Tensor:
        """From a unit's target to that of the unit below: both as differences from the activations."""
        value = clean.value(index)
        after, before = self.back(clean, index, torch.cat([value + step, value])).chunk(2)
        return after - before

    def back(self, clean: Evaluation, index: int, value: Tensor) -> Tensor:
        """The feedback network of a unit, counted from 0, for one batch or several after one another."""
        found: Tensor = self.feedback[index - 1](value, clean.kept[index])  # type: ignore[index]
        return found

    def learn(self, clean: Evaluation, output: Tensor | None) -> Learned:
        """Targets by the feedback of before; and its gradients."""
        steps = [] if output is None else self.steps(clean, output)
        if not self._learns(clean):
            return Learned(steps, [], clean.value(-1).new_zeros(()))
        loss = self.feedback_loss(clean)
        return Learned(steps, self.differentiated(loss), loss)

    def _learns(self, clean: Evaluation) -> bool:
        """Whether there is feedback, and not all of it is frozen."""
        return len(clean) > 1 and bool(self.learning())

    def feedback_loss(self, clean: Evaluation) -> Tensor:
        """The sum of all units' losses, for noise that is drawn here."""
        values = [clean.value(index) for index in range(len(clean) - 1)]
        total = values[0].new_zeros(())
        for index, (value, noise) in enumerate(zip(values, self.noises(values), strict=True), start=1):
            with torch.no_grad():
                corrupted = value + noise
                ahead = clean.again(index, corrupted)
            total = total + F.mse_loss(self.back(clean, index, ahead), corrupted, reduction="sum")
        return total / (clean.batch * self.noise**2)


class DTPDR(DTP):
    r"""Difference target propagation with the difference reconstruction loss of Meulemans et al. (arXiv 2006.14331).

        ht_{i-1} = h_{i-1} + g_i(ht_i) - g_i(h_i)
        loss of g_i:  |r_{i-1} - (h_{i-1} + e)|^2 / sigma^2,    r_L = f_L(...f_i(h_{i-1} + e)),
        r_{j-1} = h_{j-1} + g_j(r_j) - g_j(h_j),  j = L..i

    A perturbed activation goes all the way to the output, and comes back as targets do; g_i alone learns from what is
    left over at unit i - 1. For small noise and a linear g this is least by the damped pseudo-inverse of the network
    above, so that targets become those of Gauss-Newton. Every unit has such a way of its own: the cost grows with the
    square of the depth. All ways are computed as one batch, that grows upwards and shrinks downwards.

    Args: as `DTP`.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    >>> rule = DTPDR(network, example=torch.zeros(1, 4), noise=0.05)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def learn(self, clean: Evaluation, output: Tensor | None) -> Learned:
        """Bring down the output's target and what has come of the noise, side by side."""
        if not self._learns(clean):
            return super().learn(clean, output)
        with torch.no_grad():
            values = [clean.value(index) for index in range(len(clean))]
            noises = self.noises(values[:-1])
            starts = {index: values[index] + noise for index, noise in enumerate(noises)}
            ways = torch.cat(list(clean.onwards(starts).values()))
        found: list[Tensor] = []
        total = ways.new_zeros(())
        for index in range(len(clean) - 1, 0, -1):
            value, below = values[index], values[index - 1]
            ways, arrived = ways[: -clean.batch], ways[-clean.batch :]  # what began highest has arrived
            after, here = self.back(clean, index, torch.cat([arrived, value])).chunk(2)
            total = total + F.mse_loss(after - here, noises[index - 1], reduction="sum")
            with torch.no_grad():
                passing = ways if output is None else torch.cat([ways, value + output])
                if len(passing):
                    passed = self.back(clean, index, passing).unflatten(0, (-1, clean.batch)) - here
                    if output is not None:
                        output = passed[-1]
                        found.append(output)
                        passed = passed[:-1]
                    ways = (passed + below).flatten(0, 1)
        loss = total / (clean.batch * self.noise**2)
        return Learned(found[::-1], self.differentiated(loss), loss)


def refuse_nonfinite(outputs: Tensor) -> None:
    """Refuse to learn from outputs of which some are NaN or infinite."""
    if not is_finite(outputs):
        raise NonFiniteError(
            "the output of a perturbed layer holds NaN or infinity: lower the learning rate, or the noise"
        )
