"""Many independent copies of a network that run as one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from beyondprop.functional import Tensors, run_with


class Population(nn.Module):
    """Copies of a network, each with parameters of its own, evaluated as one batched computation by `torch.vmap`.

    Args:
        make: Makes a network; called once for each copy, and draws its weights.
        count: Copies, at least 1. The parameters have the network's names and one more dimension, the first.

    >>> Population(lambda: nn.Linear(2, 1), 100)(torch.zeros(4, 2)).shape
    torch.Size([100, 4, 1])
    """

    def __init__(self, make: Callable[[], nn.Module], count: int) -> None:
        super().__init__()
        networks = [make() for _ in range(count)]
        parameters, buffers = stack_module_state(networks)
        self.count = count
        # In a list: its parameters are none of the population's.
        self._skeleton = [copy.deepcopy(networks[0]).to("meta")]
        self._names = {name: name.replace(".", "_") for name in parameters}
        for name, value in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(value.detach()))
        self._buffers_of = {name: f"{name.replace('.', '_')}_" for name in buffers}
        for name, value in buffers.items():
            self.register_buffer(self._buffers_of[name], value)

    def forward(self, x: Tensor) -> Tensor:
        """Return what every copy gives for the same input, shape (count, batch, ...)."""
        skeleton = self._skeleton[0].train(self.training)  # no child of this module, so told of its mode here
        parameters = {name: getattr(self, own) for name, own in self._names.items()}
        buffers = {name: getattr(self, own).clone() for name, own in self._buffers_of.items()}  # autograd keeps these

        def one(parameters: Tensors, buffers: Tensors) -> tuple[Any, Tensors]:
            return run_with(skeleton, parameters, buffers, (x,))

        outputs: Tensor
        outputs, moved = torch.vmap(one, randomness="different")(parameters, buffers)
        with torch.no_grad():
            for name, own in self._buffers_of.items():
                getattr(self, own).copy_(moved[name])
        return outputs
