"""A network cut into units: one layer with weights each, and all that follows it until the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import fx, nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.rules.signals.layers import NORMS, Kinds, find_layers

RANDOM: Kinds = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
NO_CHAIN = "rules that need no chain are dfa and gauss-newton, and tp-ri for a recurrent layer"


class Unit(NamedTuple):
    """One layer and what follows it.

    Attributes:
        name: Of the layer.
        layer: The module with weights.
        parts: All modules of the unit in their order, the layer among them; the first unit's begin at the input.
    """

    name: str
    layer: nn.Module
    parts: tuple[nn.Module, ...]


def find_units(network: nn.Module) -> tuple[Unit, ...]:
    """Cut a network into units.

    Args:
        network: See `chain.Chain`.

    Raises:
        UnsupportedNetworkError: It is no chain, has no layer, uses one twice, or has a part whose random numbers cannot
            be used again; the message names the place.
    """
    layers = find_layers(network)
    if not layers:
        raise UnsupportedNetworkError("the network has no layer with weights: nothing can be trained")
    parts = _sequence(network, set(layers.values()))
    for name, part in parts:
        if isinstance(part, RANDOM):
            raise UnsupportedNetworkError(
                f"{name} ({type(part).__name__}) draws random numbers that cannot be used again: take nn.Dropout, or "
                "another activation"
            )
    starts = [position for position, (_, part) in enumerate(parts) if part in layers.values()]
    twice = [parts[at][0] for n, at in enumerate(starts) if parts[at][1] in [parts[other][1] for other in starts[:n]]]
    if twice:
        raise UnsupportedNetworkError(f"layer {twice[0]} is used twice: each unit needs a layer of its own")
    ends = [*starts[1:], len(parts)]
    return tuple(
        Unit(parts[start][0], parts[start][1], tuple(part for _, part in parts[begin:end]))
        for start, begin, end in zip(starts, [0, *starts[1:]], ends, strict=True)
    )


def _sequence(network: nn.Module, layers: set[nn.Module]) -> list[tuple[str, nn.Module]]:
    """List the modules that a network calls, each on what the one before gave."""
    if network in layers:
        return [("network", network)]
    tracer = _Tracer(layers)
    try:
        nodes = tracer.trace(network).nodes
    except Exception as error:  # whatever the user's own forward makes of being traced
        where = _place(network, tracer.entered[-1:])
        raise UnsupportedNetworkError(
            f"the forward of {where} does more than call one module after another, so that targets cannot follow it: "
            f"{NO_CHAIN}"
        ) from error
    found: list[tuple[str, nn.Module]] = []
    before: fx.Node | None = None
    for node in nodes:
        if node.op == "placeholder" and (before is None or not node.users):
            before = before or node
            continue
        if node.op not in ("call_module", "output") or node.args != (before,) or node.kwargs:
            raise UnsupportedNetworkError(_no_chain(network, node, before))
        if node.op == "call_module":
            found.append((str(node.target), network.get_submodule(str(node.target))))
        before = node
    return found


def _no_chain(network: nn.Module, node: fx.Node, before: fx.Node | None) -> str:
    """Tell where a network is no chain: at a node that is not one module called on what the node before gave."""
    around = list(node.meta.get("nn_module_stack", ()))
    if node.op == "call_module":
        around.pop()  # the module itself
    where = _place(network, around[-1:])
    if node.op in ("call_function", "call_method") and node.all_input_nodes == [before]:
        return (
            f"{where} computes {node.name} between its modules, and targets pass from module to module: make it a "
            f"module in the chain, such as nn.ReLU() or nn.Flatten(); {NO_CHAIN}"
        )
    at = {"call_module": f"at {node.target}", "output": "where it returns"}.get(
        node.op, f"where it computes {node.name}"
    )
    return f"values branch or meet in {where}, {at}, and targets pass down a chain of modules; {NO_CHAIN}"


def _place(network: nn.Module, name: list[str]) -> str:
    """Name a module of a network, or the network itself, with its class."""
    within = network.get_submodule(name[0]) if name else network
    return f"{name[0]} ({type(within).__name__})" if name else type(within).__name__


class _Tracer(fx.Tracer):
    """Opens containers, and takes layers and modules without children as they are.

    Attributes:
        entered: Names of the containers that it is in; where it fails, the last is the one that it cannot follow.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self._whole = set(layers)
        self.entered: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del module_qualified_name
        return m in self._whole or isinstance(m, NORMS) or not any(True for _ in m.children())

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.entered.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.entered.pop()
        return result
