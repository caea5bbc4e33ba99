"""Networks run with other tensors in the place of their own, and their buffers put back as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Tensors = dict[str, Tensor]


def run_with(
    network: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: tuple[Any, ...]
) -> tuple[Any, Tensors]:
    """Run a network with other parameters and buffers; its own stay as they are.

    Args:
        network: Any module.
        parameters: In the place of those of these names; it keeps the rest of its own.
        buffers: As well; those that it moves in place are moved.
        inputs: What it is called with.

    Returns:
        Its output; and the buffers as it leaves them, those that it has set anew among them.

    >>> network = nn.BatchNorm1d(1, momentum=1.0)
    >>> run_with(network, {}, get_buffers(network), (torch.tensor([[1.0], [3.0]]),))[1]["running_mean"]
    tensor([2.])
    """
    state = {**parameters, **buffers}
    output = functional_call(network, state, inputs)
    return output, {name: state[name] for name in buffers}


def get_buffers(*modules: nn.Module) -> Tensors:
    """Copy the buffers' values, by name; of several modules the place of each stands before the name."""
    return {name: buffer.clone() for name, buffer in _together(modules).named_buffers()}


def set_buffers(values: Mapping[str, Tensor], *modules: nn.Module) -> None:
    """Give buffers the values that `get_buffers` has taken of the same modules.

    They are found by name: a module may have set another tensor in the place of the one that it had.
    """
    with torch.no_grad():
        for name, buffer in _together(modules).named_buffers():
            buffer.copy_(values[name])


@contextmanager
def buffers_kept(*modules: nn.Module) -> Iterator[None]:
    """Within it modules may move their buffers; at the end, whatever happens, these are as they were."""
    before = get_buffers(*modules)
    try:
        yield
    finally:
        set_buffers(before, *modules)


def _together(modules: tuple[nn.Module, ...]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.ModuleList(modules)
