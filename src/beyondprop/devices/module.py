"""A torch module as a device: it is evaluated at the parameters that it is given, and never differentiated."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from beyondprop.checks import check_whole
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rule import batched_by_vmap


class ModuleDevice:
    """Any torch module with a loss, behind the protocol of a `Device`.

    The device has a copy of the module, in evaluation mode: no dropout, and batch norms use the statistics that they
    came with. What requires a gradient is a parameter of the device, in the module's order; the rest is fixed.

    Args:
        network: Any module. It is copied.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        at_once: Perturbations that are evaluated as one batch by `torch.vmap`; 1 evaluates one after another, which any
            network allows.

    Raises:
        UserError: `at_once` is no whole number of at least 1; in `write`, the parameters are not P; in `read`, nothing
            is presented.
        UnsupportedNetworkError: Nothing in the module is trainable; in `read`, vmap cannot run it.

    >>> device = ModuleDevice(nn.Linear(4, 3))
    >>> device.present(torch.ones(2, 4), torch.tensor([0, 2]))
    >>> device.read(torch.zeros(5, device.size)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        at_once: int = 64,
    ) -> None:
        check_whole(1, at_once=at_once)
        self.network = copy.deepcopy(network).eval()
        self.loss = loss or nn.CrossEntropyLoss()
        self.at_once = at_once
        self._trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        if not self._trained:
            raise UnsupportedNetworkError(f"no parameter of {type(network).__name__} is trainable")
        self._lengths = [p.numel() for p in self._trained.values()]
        self.size = sum(self._lengths)
        self._batch: tuple[Tensor, Tensor] | None = None

    @property
    def parameters(self) -> Tensor:
        """As they were last written, at first the module's own; shape (P,)."""
        return torch.cat([p.detach().flatten() for p in self._trained.values()]).cpu()

    @torch.no_grad()
    def write(self, parameters: Tensor) -> None:
        """Take over parameters, shape (P,)."""
        if parameters.shape != (self.size,):
            raise UserError(f"the device has {self.size} parameters, got shape {tuple(parameters.shape)}")
        self.network.to(parameters.dtype)  # it computes in what it is given
        for p, part in zip(self._trained.values(), parameters.split(self._lengths), strict=True):
            p.copy_(part.reshape(p.shape))

    def present(self, x: Tensor, y: Tensor) -> None:
        """Hold a batch of inputs and targets."""
        where = next(iter(self._trained.values())).device
        self._batch = x.to(where), y.to(where)

    @torch.no_grad()
    def read(self, perturbations: Tensor) -> Tensor:
        """Return the losses at perturbed parameters, shape (K,)."""
        if self._batch is None:
            raise UserError("nothing is presented: present an input and its target first")
        if perturbations.ndim != 2 or perturbations.shape[1] != self.size:
            raise UserError(f"perturbations must have shape (K, {self.size}), got {tuple(perturbations.shape)}")
        x, y = self._batch

        def cost(moves: Tensor) -> Tensor:
            parts = moves.split(self._lengths)
            moved = {n: p + d.reshape(p.shape) for (n, p), d in zip(self._trained.items(), parts, strict=True)}
            return self.loss(functional_call(self.network, moved, (x,)), y)

        perturbations = perturbations.to(next(iter(self._trained.values())))
        if self.at_once == 1:
            return torch.stack([cost(moves) for moves in perturbations]).cpu()
        with batched_by_vmap("device"):
            return torch.cat([torch.vmap(cost)(chunk) for chunk in perturbations.split(self.at_once)]).cpu()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the module's own output."""
        return self.network(x.to(next(iter(self._trained.values())).device)).cpu()
