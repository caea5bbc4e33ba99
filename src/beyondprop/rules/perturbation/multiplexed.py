"""Multiplexed gradient descent: all parameters are wiggled at once, and each listens for its own wiggle in the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.rules.perturbation.codes import Kind
from beyondprop.rules.perturbation.perturbed import PerturbedNetwork


class MultiplexedGradientDescent(PerturbedNetwork):
    r"""Multiplexed gradient descent (McCaughan et al., arXiv 2303.03986, Section II), discrete in time.

        C̃(t) = C(θ + θ̃(t)) - C(θ),    G = P · mean over τ_θ steps of C̃(t) θ̃(t) / norm²

    The network is only ever evaluated: C is a number that could be read from a chip. G is an unbiased estimate of the
    gradient, to lowest order in the perturbation θ̃, and goes to any optimizer. The paper has the sum in place of P
    times the mean: a learning rate here is its η times τ_θ/P.

    A call presents one batch for τ_x steps. `.grad` is written by the call that completes τ_θ steps; the calls before
    it leave `.grad` as it was, so that every optimizer leaves the parameters alone. Where τ_θ is less than τ_x, a batch
    takes τ_x/τ_θ phases of τ_θ steps, an update after each, and the baseline C(θ) is read anew where θ has moved.

    Args:
        network: Any module; it is never changed.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        code: How perturbations share time; see `PerturbationCode`.
        norm: Length of θ̃. Small beside the weights, and far above what float32 can tell in the cost.
        tau_x: Steps for which a batch is presented, with a perturbation each.
        tau_p: Steps for which a perturbation is held.
        tau_theta: Steps between two updates, which `tau_x` divides or which divides it; by default `tau_x`.
        cost_noise: Standard deviation of noise that is added to every read of a perturbed cost.
        clamp: Largest size of C̃ that is believed; None for any.
        at_once: Perturbations that are evaluated as one batch by `torch.vmap`; 1 evaluates one after another, which any
            network allows. By default 64, or 1 where there are convolutions, which are several times slower in groups.
        copies: The network holds so many independent ones, as `beyondprop.networks.population.Population` does: the
            first dimension of all parameters. The loss gives a cost for each, shape (copies,), and each listens to its
            own. What one of them learns is what it would learn alone.

    With `code="sequential"` and τ_θ = P τ_p these are forward finite differences; with `"sequential"` and τ_θ = τ_p
    coordinate descent; with `"random"` and τ_θ = τ_p simultaneous perturbation (SPSA).

    Raises:
        UserError: An option is out of range; in `backward`, with the default loss, a label is no class index.
        UnsupportedNetworkError: The network has nothing to train; in `backward`, vmap cannot run it.
        NonFiniteError: In `backward`, when a cost is NaN or infinite; the message names the layer. Nothing is added.

    >>> rule = MultiplexedGradientDescent(nn.Linear(4, 3), tau_x=20)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    accumulated: Tensor
    steps: Tensor

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        code: Kind = "random",
        norm: float = 0.1,
        tau_x: int = 1,
        tau_p: int = 1,
        tau_theta: int | None = None,
        cost_noise: float = 0.0,
        clamp: float | None = None,
        at_once: int | None = None,
        copies: int = 1,
    ) -> None:
        super().__init__(
            network, loss, code=code, norm=norm, tau_p=tau_p, cost_noise=cost_noise, at_once=at_once, copies=copies
        )
        tau_theta = tau_x if tau_theta is None else tau_theta
        check_whole(1, tau_x=tau_x, tau_theta=tau_theta)
        if max(tau_x, tau_theta) % min(tau_x, tau_theta):
            raise UserError(
                f"tau_theta must be a multiple of tau_x, or divide it: got tau_theta={tau_theta} and tau_x={tau_x}"
            )
        if clamp is not None:
            check_number(clamp=clamp, above=True)
        self.tau_x, self.tau_theta, self.clamp = tau_x, tau_theta, clamp
        self.span = min(tau_x, tau_theta)
        if tau_theta < tau_x:
            self.phases = tuple(f"update {number}" for number in range(1, tau_x // tau_theta + 1))
        like = next(p for p in network.parameters() if p.requires_grad)
        self.register_buffer("accumulated", torch.zeros(copies, self.size, dtype=like.dtype, device=like.device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; each batch is presented for 256 steps unless the options say otherwise."""
        del example, classes
        return cls(network, **{"tau_x": 256, **options})

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Wiggle, listen, and let each parameter know what it has heard."""
        del phase
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # wiggles are below bfloat16's rounding
            perturbations = self.perturbations(self.span)
            costs = self._read(torch.cat([torch.zeros_like(perturbations[:1]), perturbations]), x, y)
            changes = self._noisy(costs[1:]) - costs[0]
            if self.clamp is not None:
                changes.clamp_(-self.clamp, self.clamp)
            self.accumulated += torch.einsum("kc,kcp->cp", changes, perturbations) / self.norm**2
            self.steps += self.span
            if (steps := int(self.steps)) >= self.tau_theta:
                self._write(self.accumulated * (self.size / steps))
                self.accumulated.zero_()
                self.steps.zero_()
        return costs[0].mean()
