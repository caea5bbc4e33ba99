"""Plain `nn.Sequential`: what does nothing but call its children one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

from torch import Tensor, nn


def is_plain(network: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it is an `nn.Sequential`, or a subclass that has kept its `forward`."""
    return isinstance(network, nn.Sequential) and type(network).forward is nn.Sequential.forward


def children_of(network: nn.Module) -> list[nn.Module]:
    """Its children in order; `children()` would name one that stands twice only once.

    >>> tanh = nn.Tanh()
    >>> len(children_of(nn.Sequential(nn.Linear(2, 2), tanh, nn.Linear(2, 2), tanh)))
    4
    """
    return [child for child in network._modules.values() if child is not None]


def flattened(network: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Give what a chain calls, in order: the children of plain sequences within plain sequences, in their places.

    Args:
        network: A chain; anything else is given itself.
        name: Of the network.

    Yields:
        Names as in `named_modules`, and modules. One that stands in several places is given in each.

    >>> tanh = nn.Tanh()
    >>> [name for name, _ in flattened(nn.Sequential(nn.Linear(2, 2), nn.Sequential(tanh, nn.Linear(2, 2), tanh)))]
    ['0', '1.0', '1.1', '1.2']
    """
    if not is_plain(network):
        yield name, network
        return
    for child_name, child in network._modules.items():
        if child is not None:
            yield from flattened(child, f"{name}.{child_name}" if name else child_name)


def out_of_place(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module that may work in place, such as `nn.ReLU(inplace=True)`, and leave what it is given as it is."""
    inplace = any(getattr(part, "inplace", False) for part in module.modules())
    output: Tensor = module(x.clone() if inplace else x)
    return output
