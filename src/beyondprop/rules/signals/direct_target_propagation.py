"""Difference target propagation by feedback that leads from the output straight to every hidden unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_whole
from beyondprop.errors import UserError
from beyondprop.rules.signals.chain import Evaluation
from beyondprop.rules.signals.feedback import Feedback
from beyondprop.rules.signals.mirrors import closing_activation
from beyondprop.rules.signals.target_propagation import Gradients, Learned, LearnedTargets, refuse_nonfinite

Kind = Literal["linear", "rhl", "control"]


class DDTP(LearnedTargets):
    r"""Direct difference target propagation (Meulemans et al., arXiv 2006.14331, Section 4).

        ht_i = h_i + g_i(ht_L) - g_i(h_L)
        loss of g_i:  |h_i + g_i(y) - g_i(h_L) - (h_i + e)|^2 / sigma^2,    y = f_L(...f_{i+1}(h_i + e))

    with e ~ N(0, sigma^2), summed over activations and averaged over the batch. A perturbed activation goes to the
    output, and g_i learns to bring its difference back. The perturbed units are computed as one batch that grows from
    unit to unit.

    - `"linear"`: g_i(y) = y Q_i. With a weight decay of 2 lambda in the gradient (torch's SGD and Adam) its
      minimum is, for small noise, the damped pseudo-inverse J^T (J J^T + lambda)^-1 of J = dh_L/dh_i, averaged over the
      batch: the targets of Gauss-Newton. AdamW's decay damps in another way, by no fixed lambda. With frozen Q this is
      direct feedback alignment.
    - `"rhl"`: g_i(y) = s(r(y) Q_i + d_i), r(y) = tanh(y R + c) with R and c random, fixed and shared by all units,
      and s the unit's own activation. The last hidden unit gets y in the place of r(y).
    - `"control"`: the paper's control. g_i(y) = y Q_i + d_i learns to give h_i + e itself, without difference and
      without 1/sigma^2.

    Any layer can be in a unit, for no signal passes through it from above.

    Args:
        network, example, loss: As `TargetRule`.
        feedback: `"linear"`, `"rhl"` or `"control"`.
        hidden: Length of r(y), for `"rhl"`.
        **options: As `LearnedTargets`.

    Raises:
        UserError: `feedback` is none of these; or an option is out of range.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    >>> rule = DDTP(network, example=torch.zeros(1, 4))
    >>> [rule.feedback[name].shape for name in rule.feedback]  # outputs, then the activation's own shape
    [torch.Size([3, 8]), torch.Size([3, 6])]
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    feedback: Feedback
    spread: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        feedback: Kind = "linear",
        hidden: int = 1024,
        **options: Any,
    ) -> None:
        super().__init__(network, example, loss, **options)
        if feedback not in ("linear", "rhl", "control"):
            raise UserError(f"feedback must be 'linear', 'rhl' or 'control', got {feedback!r}")
        check_whole(1, hidden=hidden)
        self.kind = feedback
        like = next(iter(self.chain.units[0].layer.parameters()))
        outputs = math.prod(self.chain.shapes[-1])
        weights: dict[str, Tensor] = {}
        for index, (unit, shape) in enumerate(zip(self.chain.units[:-1], self.chain.shapes[:-1], strict=True)):
            weights[unit.name] = _xavier((hidden if self._lifts(index) else outputs, *shape), like)
        if feedback != "linear":  # there it would cancel
            biases = {f"{name} bias": weight.new_zeros(weight.shape[1:]) for name, weight in weights.items()}
            weights |= biases
        self.feedback = Feedback(weights, learned=True)
        if feedback == "rhl":
            # The units' own, in a tuple, so that they are not registered a second time.
            self.activations = tuple(closing_activation(unit) for unit in self.chain.units[:-1])
            bound = outputs**-0.5
            self.register_buffer("spread", like.new_empty(outputs, hidden).uniform_(-bound, bound))
            self.register_buffer("shift", like.new_empty(hidden).uniform_(-bound, bound))

    def steps(self, clean: Evaluation, output: Tensor) -> list[Tensor]:
        """Bring the output's target to each hidden unit."""
        with torch.no_grad():
            if self.kind != "rhl":  # what is added cancels
                return [(output.flatten(1) @ self._weight(i)).view_as(clean.values[i]) for i in self._hidden]
            scores = clean.value(-1).flatten(1)
            lifted = self._lift(torch.cat([scores + output.flatten(1), scores]))
            pairs = [self._back(index, lifted[self._lifts(index)]).chunk(2) for index in self._hidden]
            return [after - before for after, before in pairs]

    def learn(self, clean: Evaluation, output: Tensor | None) -> Learned:
        """Targets by the feedback of before; and its gradients."""
        steps = [] if output is None else self.steps(clean, output)
        learning = [index for index in self._hidden if self._learns(index)]
        if not learning:
            return Learned(steps, [], clean.value(-1).new_zeros(()))
        with torch.no_grad():
            values = [clean.value(index) for index in learning]
            noises = dict(zip(learning, self.noises(values), strict=True))
            starts = {index: value + noises[index] for index, value in zip(learning, values, strict=True)}
            arrived = torch.cat(list(clean.onwards(starts).values())).flatten(1)
            refuse_nonfinite(arrived)
            scores = clean.value(-1).flatten(1)
        if self.kind == "rhl":
            loss = self._lifted_loss(clean, scores, arrived, noises)
            return Learned(steps, self.differentiated(loss), loss)
        gradients: Gradients = []
        losses: list[Tensor] = []
        for index, y in zip(learning, arrived.split(clean.batch), strict=True):
            if self.kind == "linear":
                given, wanted, weight = y - scores, noises[index], 1 / self.noise**2
            else:
                given, wanted, weight = y, starts[index] - self._parameter(index, " bias").detach(), 1.0
            left = torch.addmm(wanted.flatten(1), given, self._weight(index).detach(), beta=-1)
            losses.append(torch.linalg.vector_norm(left).square() * (weight / clean.batch))
            gradients += self._affine(index, given, left, 2 * weight / clean.batch)
        return Learned(steps, gradients, torch.stack(losses).sum())

    def _affine(self, index: int, given: Tensor, left: Tensor, scale: float) -> Gradients:
        """Differentiate scale / 2 * |left|^2 by hand, for left = given Q + d - wanted."""
        parameter = self._parameter(index)
        found = [(parameter, (given.t() @ left).mul_(scale).view_as(parameter))]
        if self.kind == "control":
            bias = self._parameter(index, " bias")
            found.append((bias, left.sum(dim=0).mul_(scale).view_as(bias)))
        return found

    def _lifted_loss(self, clean: Evaluation, scores: Tensor, arrived: Tensor, noises: dict[int, Tensor]) -> Tensor:
        """The sum of the units' losses where g_i is no linear map."""
        ways, here = self._lift(arrived), self._lift(scores)
        total = scores.new_zeros(())
        for way, (index, noise) in enumerate(noises.items()):
            kind = self._lifts(index)
            own = ways[kind][way * clean.batch : (way + 1) * clean.batch]
            after, before = self._back(index, torch.cat([own, here[kind]])).chunk(2)
            total = total + F.mse_loss(after - before, noise, reduction="sum")
        return total / (clean.batch * self.noise**2)

    def _lift(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs themselves, for the last hidden unit, and r of them, for the others."""
        with torch.no_grad():
            return y, torch.addmm(self.shift, y, self.spread).tanh_()

    def _lifts(self, index: int) -> bool:
        """Whether a hidden unit gets r(y) in the place of y."""
        return self.kind == "rhl" and index < len(self.chain.units) - 2

    def _back(self, index: int, y: Tensor) -> Tensor:
        """g_i where it is no linear map."""
        summed = torch.addmm(self._bias(index), y, self._weight(index))
        found: Tensor = self.activations[index](summed.unflatten(1, self.chain.shapes[index]))
        return found

    def _learns(self, index: int) -> bool:
        """Whether a unit and its feedback are trained: of a frozen unit nobody asks for targets."""
        unit = self.chain.units[index]
        trained = any(p.requires_grad for part in unit.parts for p in part.parameters())
        return trained and self._parameter(index).requires_grad

    @property
    def _hidden(self) -> range:
        return range(len(self.chain.units) - 1)

    def _parameter(self, index: int, kind: str = "") -> nn.Parameter:
        parameter = self.feedback[self.chain.units[index].name + kind]
        assert isinstance(parameter, nn.Parameter)
        return parameter

    def _weight(self, index: int) -> Tensor:
        return self._parameter(index).flatten(1)

    def _bias(self, index: int) -> Tensor:
        return self._parameter(index, " bias").flatten()


def _xavier(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draw a matrix from N(0, 2 / (rows + columns)); its columns may be of any shape."""
    spread = math.sqrt(2 / (shape[0] + math.prod(shape[1:])))
    return torch.empty(shape, dtype=like.dtype, device=like.device).normal_(std=spread)
