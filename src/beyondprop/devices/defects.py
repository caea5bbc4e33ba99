"""Device-to-device variation of activations, as the paper of multiplexed gradient descent models it."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number
from beyondprop.errors import UnsupportedNetworkError
from beyondprop.layers.defective_activation import DefectiveActivation
from beyondprop.rule import without_trace

ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.LeakyReLU)
M = TypeVar("M", bound=nn.Module)


def with_defects(network: M, example: Tensor, deviation: float, *, seed: int = 0) -> M:
    """Copy a network and give every activation neuron a curve of its own.

    Args:
        network: Its modules of the classes `ACTIVATIONS` are replaced in the copy.
        example: One input batch; it is run once without a trace to count the neurons.
        deviation: σ of `DefectiveActivation`.
        seed: Of the draws.

    Raises:
        UserError: The deviation is no finite number of at least 0.
        UnsupportedNetworkError: There is no such activation, or one is used at several places: neurons of different
            layers would share their defects.
    """
    check_number(deviation=deviation)
    network = copy.deepcopy(network)
    shapes: dict[nn.Module, list[torch.Size]] = {}

    def note(module: nn.Module, _args: object, output: Tensor) -> None:
        shapes.setdefault(module, []).append(output.shape[1:])

    handles = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, ACTIVATIONS)]
    with without_trace(network):
        network(example)
    for handle in handles:
        handle.remove()
    if not shapes or any(len(seen) > 1 for seen in shapes.values()):
        raise UnsupportedNetworkError(
            f"{type(network).__name__} has no activation module whose neurons could differ, or uses one twice: give "
            "each layer one of its own"
        )
    generator = torch.Generator().manual_seed(seed)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in shapes:
                setattr(parent, name, DefectiveActivation(child, shapes[child][0], deviation, generator))
    return network
