"""What rules that only evaluate a network at perturbed parameters have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.functional import run_with, set_buffers
from beyondprop.generators import GeneratorState, cuda_devices
from beyondprop.rule import add_gradient, batched_by_vmap, without_trace
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.perturbation.codes import Kind, PerturbationCode
from beyondprop.rules.perturbation.division import Division


class PerturbedNetwork(NetworkRule):
    """A network whose cost is read at perturbed parameters, and never differentiated.

    Args:
        network: Any module; it is never changed.
        loss: Maps (network(x), y) to a scalar; with copies, to one cost each, shape (copies,). Default: mean
            cross-entropy over class scores.
        code: How perturbations share time; see `PerturbationCode`.
        norm: Length of a perturbation.
        tau_p: Steps for which a perturbation is held.
        cost_noise: Standard deviation of noise that is added to every read of a perturbed cost.
        at_once: Perturbations that are evaluated as one batch by `torch.vmap`; 1 evaluates one after another, which any
            network allows. By default 64, or 1 where there are convolutions, which are several times slower in groups.
        copies: The network holds so many independent ones, as `beyondprop.networks.population.Population` does: the
            first dimension of all parameters.

    Attributes:
        size: P, the number of parameters that are trained, of one copy.
        code: The perturbations to come.
        division: Which of them this process evaluates, where several train together.

    Raises:
        UserError: An option is out of range.
        UnsupportedNetworkError: The network has nothing to train.
    """

    follows_gradient: ClassVar[bool] = False
    span: int = 1  # steps of a call

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None,
        *,
        code: Kind,
        norm: float,
        tau_p: int,
        cost_noise: float,
        at_once: int | None,
        copies: int,
    ) -> None:
        super().__init__(network, loss)
        if at_once is None:
            at_once = 1 if any(isinstance(module, _ConvNd) for module in network.modules()) else 64
        check_number(norm=norm, above=True)
        check_number(cost_noise=cost_noise)
        check_whole(1, at_once=at_once, copies=copies)
        self._scores: torch.Size | None = None  # known when the network has been seen to run
        self.cost_noise, self.at_once, self.copies = cost_noise, at_once, copies
        self._names = [name for name, p in network.named_parameters() if p.requires_grad]
        trained = [p for p in network.parameters() if p.requires_grad]
        if copies > 1 and any(p.ndim == 0 or len(p) != copies for p in trained):
            raise UserError(f"copies must be the first dimension of every parameter: got {copies}")
        self.norm, self.size = norm, sum(p.numel() for p in trained) // copies
        self.division = Division()
        # Random codes are drawn for each copy; the others have one plan, which all follow.
        self._own = copies if code == "random" else 1
        self.code = PerturbationCode(code, self.size * self._own, norm=norm * self._own**0.5, tau_p=tau_p)
        self.code.to(trained[0].device)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Any module that has something to train."""
        if any(p.requires_grad for p in network.parameters()):
            return None
        return f"{cls.__name__} has nothing to perturb: no parameter of {type(network).__name__} is trainable"

    def perturbations(self, count: int) -> Tensor:
        """Perturbations of the next steps, shape (count, copies, P), in the parameters' type."""
        drawn = self.code(count).to(self.network.get_parameter(self._names[0]).dtype)
        return drawn.view(count, self._own, -1).expand(-1, self.copies, -1)

    def costs(self, perturbations: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Evaluate the cost at perturbed parameters.

        Args:
            perturbations: Shape (K, copies, P); batch norms keep what the first of them has moved.
            x: Inputs.
            y: Targets.

        Returns:
            Costs, shape (K, copies).

        Raises:
            UserError: The loss gives another number of costs.
            UnsupportedNetworkError: vmap cannot run the network.
        """
        parameters = {name: self.network.get_parameter(name) for name in self._names}
        refuse_narrow(parameters)
        buffers = dict(self.network.named_buffers())

        def cost(flat: Tensor, buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            parts = flat.split([p.numel() // self.copies for p in parameters.values()], dim=1)
            moved = {name: p + d.reshape(p.shape) for (name, p), d in zip(parameters.items(), parts, strict=True)}
            scores, buffers = run_with(self.network, moved, buffers, (x,))
            losses = self.loss(scores, y)
            if losses.numel() != self.copies:
                wanted = "a scalar" if self.copies == 1 else f"one cost for each of {self.copies} copies"
                raise UserError(f"loss must give {wanted}, got shape {tuple(losses.shape)}")
            return losses.reshape(self.copies), buffers

        found = list[Tensor]()
        first = buffers
        state = GeneratorState(cuda_devices(self.network))
        for chunk in perturbations.split(self.at_once):
            state.restore()  # one dropout mask for all
            copies = {name: b.expand(len(chunk), *b.shape).clone() for name, b in buffers.items()}
            if self.at_once == 1:
                made, moved = cost(chunk[0], {name: b[0] for name, b in copies.items()})
                values, moved = made[None], {name: b[None] for name, b in moved.items()}
            else:
                with batched_by_vmap("rule"):
                    values, moved = torch.vmap(cost, randomness="same")(chunk, copies)
            if not found:
                first = {name: b[0] for name, b in moved.items()}
            found.append(values)
        set_buffers(first, self.network)
        return torch.cat(found)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's own output; of several copies the mean of theirs."""
        output = self.network(x)
        return output if self.copies == 1 else output.mean(dim=0)

    def _read(self, perturbations: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Costs of shape (K, copies) as `costs` gives them, after a look at the labels, if they are finite."""
        if self._classifies:
            if self._scores is None:
                with without_trace(self.network):
                    self._scores = self.network(x[:1]).shape
            y = self.checked_targets(y, self._scores)
        return self.finite_losses(self._shared_costs(perturbations, x, y), x, "the learning rate or norm")

    def _shared_costs(self, perturbations: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Evaluate this process's own, and after the first: batch norms go by that one in every process."""
        rows = self.division.rows(len(perturbations))
        extra = int(len(rows) == 0 or rows[0] > 0)
        evaluated = torch.cat([torch.zeros(extra, dtype=torch.long), rows])
        costs = self.costs(perturbations[evaluated], x, y)
        return self.division.complete(costs[extra:], len(perturbations))

    def _noisy(self, costs: Tensor) -> Tensor:
        """What is heard of them."""
        return costs + self.cost_noise * torch.randn_like(costs) if self.cost_noise > 0 else costs

    def _write(self, gradient: Tensor) -> None:
        """Add to each `.grad` its part of a gradient of shape (copies, P)."""
        parameters = [self.network.get_parameter(name) for name in self._names]
        parts = gradient.split([p.numel() // self.copies for p in parameters], dim=1)
        for parameter, part in zip(parameters, parts, strict=True):
            add_gradient(parameter, part.reshape(parameter.shape))


def refuse_narrow(parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that cannot be moved by as little as perturbations are.

    Raises:
        UserError: One of those that are trained has fewer bits than float32.
    """
    for name, parameter in parameters.items():
        if parameter.requires_grad and torch.finfo(parameter.dtype).bits < 32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UserError(
                f"parameter {name} is {kind}, in which perturbations and what they change are lost to rounding: keep "
                "the network in float32 by network.float()"
            )
