"""A teaching signal that goes from layer to layer, from the loss down to the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from beyondprop.rules.signals.layers import Call, edges_of, intercepted, replaced

Signals = list[Tensor | None]
PassOn = Callable[[Call, Signals], Signals]


def own_derivative(call: Call, signals: Signals) -> Signals:
    """Pass on what the layer's own derivative gives: back-propagation. The inputs must be cut with a gradient."""
    arrived = [(edge, signal) for edge, signal in zip(call.edges, signals, strict=True) if signal is not None]
    edges, values = zip(*arrived, strict=True)
    return list(torch.autograd.grad(edges, call.inputs, values, retain_graph=True, allow_unused=True))


@contextmanager
def chained(layers: Mapping[str, nn.Module], pass_on: PassOn, *, with_gradient: bool = False) -> Iterator[None]:
    """Let every layer that is evaluated in the context pass signals on in a way of its own.

    The loss's `backward()` sets it off, brings signals through what lies between layers, and teaches each layer's
    parameters by its own vector-Jacobian product with the signal that arrives.

    Args:
        layers: By name.
        pass_on: Called with a layer's evaluation and the signals that arrived at its outputs, None where none did. It
            returns the signals for `call.given`, of their shapes; None where none is to pass.
        with_gradient: Whether `call.inputs` are to be differentiable, for `pass_on` to make use of it.
    """

    def enter(call: Call, arguments: Any) -> Any:
        return call.cut(arguments, with_gradient)

    def leave(call: Call, output: Any) -> Any:
        if not call.given:  # the first layer: nothing before it learns
            return output
        outputs = [leaf for leaf in trees.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if with_gradient:
            call.edges = edges_of(outputs)
        return replaced(output, outputs, _Detour.apply(call, pass_on, len(outputs), *outputs, *call.given))

    with intercepted(layers, enter, leave):
        yield


class _Detour(torch.autograd.Function):
    """Joins a layer to what came before it: signals reach the layer as they are, and go on as `pass_on` tells."""

    @staticmethod
    def forward(ctx: Any, call: Call, pass_on: PassOn, count: int, *tensors: Tensor) -> Any:
        ctx.call, ctx.pass_on = call, pass_on
        ctx.set_materialize_grads(False)
        return tuple(output.detach() for output in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *signals: Tensor | None) -> Any:
        call, ctx.call = ctx.call, None
        if all(signal is None for signal in signals):
            return (None,) * (3 + len(signals) + len(call.given))
        return (None, None, None, *signals, *ctx.pass_on(call, list(signals)))
