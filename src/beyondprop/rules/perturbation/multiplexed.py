"""Multiplexed gradient descent: all parameters are wiggled at once, and each listens for its own wiggle in the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rule import add_gradient, first_nonfinite_layer, without_trace
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.perturbation.codes import Kind, PerturbationCode


class MultiplexedGradientDescent(NetworkRule):
    r"""Multiplexed gradient descent (McCaughan et al., arXiv 2303.03986, Section II), discrete in time.

        C̃(t) = C(θ + θ̃(t)) - C(θ),    G = P · mean over τ_θ steps of C̃(t) θ̃(t) / norm²

    The network is only ever evaluated: C is a number that could be read from a chip. G is an unbiased estimate of the
    gradient, to lowest order in the perturbation θ̃, and goes to any optimizer. The paper has the sum in place of P
    times the mean: a learning rate here is its η times τ_θ/P.

    A call presents one batch for τ_x steps. `.grad` is written by the call that completes τ_θ steps; the calls before
    it leave `.grad` as it was, so that every optimizer leaves the parameters alone.

    Args:
        network: Any module; it is never changed.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        code: How perturbations share time; see `PerturbationCode`.
        norm: Length of θ̃. Small beside the weights, and far above what float32 can tell in the cost.
        tau_x: Steps for which a batch is presented, with a perturbation each.
        tau_p: Steps for which a perturbation is held.
        tau_theta: Steps between two updates, a multiple of `tau_x`; by default `tau_x`.
        cost_noise: Standard deviation of noise that is added to every read of a perturbed cost.
        clamp: Largest size of C̃ that is believed; None for any.
        at_once: Perturbations that are evaluated as one batch by `torch.vmap`; 1 evaluates one after another, which any
            network allows.
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

    follows_gradient: ClassVar[bool] = False
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
        at_once: int = 64,
        copies: int = 1,
    ) -> None:
        super().__init__(network, loss)
        tau_theta = tau_x if tau_theta is None else tau_theta
        if tau_x < 1 or tau_theta < 1 or tau_theta % tau_x:
            raise UserError(f"tau_theta must be a multiple of tau_x, got tau_theta={tau_theta} and tau_x={tau_x}")
        if cost_noise < 0 or at_once < 1 or (clamp is not None and not clamp > 0):
            raise UserError("cost_noise must be at least 0, at_once at least 1, and clamp positive")
        self._scores: torch.Size | None = None  # known when the network has been seen to run
        self.tau_x, self.tau_theta = tau_x, tau_theta
        self.cost_noise, self.clamp, self.at_once = cost_noise, clamp, at_once
        self._names = [name for name, p in network.named_parameters() if p.requires_grad]
        trained = [p for p in network.parameters() if p.requires_grad]
        if copies < 1 or (copies > 1 and any(p.ndim == 0 or len(p) != copies for p in trained)):
            raise UserError(f"copies must be the first dimension of every parameter, and at least 1: got {copies}")
        self.copies, size, like = copies, sum(p.numel() for p in trained) // copies, trained[0]
        # Random codes are drawn for each copy; the others have one plan, which all follow.
        self._own = copies if code == "random" else 1
        self.code = PerturbationCode(code, size * self._own, norm=norm * self._own**0.5, tau_p=tau_p).to(like.device)
        self.norm = norm
        self.register_buffer("accumulated", torch.zeros(copies, size, dtype=like.dtype, device=like.device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Any module that has something to train."""
        if any(p.requires_grad for p in network.parameters()):
            return None
        return f"{cls.__name__} has nothing to perturb: no parameter of {type(network).__name__} is trainable"

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; each batch is presented for 256 steps unless the options say otherwise."""
        del example, classes
        return cls(network, **{"tau_x": 256, **options})

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Wiggle, listen, and let each parameter know what it has heard."""
        del phase
        if self._classifies:
            if self._scores is None:
                with without_trace(self.network):
                    self._scores = self.network(x[:1]).shape
            y = self.checked_targets(y, self._scores)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # wiggles are below bfloat16's rounding
            perturbations = self.code(self.tau_x).to(self.accumulated.dtype).view(self.tau_x, self._own, -1)
            perturbations = perturbations.expand(-1, self.copies, -1)
            costs = self.costs(torch.cat([torch.zeros_like(perturbations[:1]), perturbations]), x, y)
            if not costs.isfinite().all():
                raise NonFiniteError(
                    f"a cost is NaN or infinite, first seen in {first_nonfinite_layer(self.network, x)}: check the "
                    "data, or lower the learning rate or norm"
                )
            changes = costs[1:] - costs[0]
            if self.cost_noise > 0:
                changes += self.cost_noise * torch.randn_like(changes)
            if self.clamp is not None:
                changes.clamp_(-self.clamp, self.clamp)
            self.accumulated += torch.einsum("kc,kcp->cp", changes, perturbations) / self.norm**2
            self.steps += self.tau_x
            if int(self.steps) >= self.tau_theta:
                self._write(self.accumulated * (self.accumulated.shape[1] / int(self.steps)))
                self.accumulated.zero_()
                self.steps.zero_()
        return costs[0].mean()

    def costs(self, perturbations: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Evaluate the cost at perturbed parameters.

        Args:
            perturbations: Shape (K, copies, P); batch norms keep what the first of them has moved.
            x: Inputs.
            y: Targets.

        Returns:
            Costs, shape (K, copies).
        """
        parameters = {name: self.network.get_parameter(name) for name in self._names}
        buffers = dict(self.network.named_buffers())

        def cost(flat: Tensor, buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            parts = flat.split([p.numel() // self.copies for p in parameters.values()], dim=1)
            moved = {name: p + d.reshape(p.shape) for (name, p), d in zip(parameters.items(), parts, strict=True)}
            scores = functional_call(self.network, {**moved, **buffers}, (x,))
            return self.loss(scores, y).reshape(self.copies), buffers

        found = list[Tensor]()
        first = buffers
        state = torch.get_rng_state()
        for chunk in perturbations.split(self.at_once):
            torch.set_rng_state(state)  # one dropout mask for all
            copies = {name: b.expand(len(chunk), *b.shape).clone() for name, b in buffers.items()}
            if self.at_once == 1:
                made, moved = cost(chunk[0], {name: b[0] for name, b in copies.items()})
                values, moved = made[None], {name: b[None] for name, b in moved.items()}
            else:
                values, moved = self._mapped(cost, chunk, copies)
            if not found:
                first = {name: b[0] for name, b in moved.items()}
            found.append(values)
        for name, buffer in buffers.items():
            buffer.copy_(first[name])
        return torch.cat(found)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's own output; of several copies the mean of theirs."""
        output = self.network(x)
        return output if self.copies == 1 else output.mean(dim=0)

    @staticmethod
    def _mapped(cost: Callable[..., Any], chunk: Tensor, buffers: dict[str, Tensor]) -> Any:
        try:
            return torch.vmap(cost, randomness="same")(chunk, buffers)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UnsupportedNetworkError(
                f"torch.vmap cannot evaluate the network ({reason}): make the rule with at_once=1"
            ) from error

    def _write(self, gradient: Tensor) -> None:
        """Add to each `.grad` its part."""
        parameters = [self.network.get_parameter(name) for name in self._names]
        parts = gradient.split([p.numel() // self.copies for p in parameters], dim=1)
        for parameter, part in zip(parameters, parts, strict=True):
            add_gradient(parameter, part.reshape(parameter.shape))
