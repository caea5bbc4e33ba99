"""A teaching signal that goes from layer to layer, from the loss down to the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from beyondprop.rules.signals.layers import Call, differentiable, edges_of, intercepted, replaced

Signals = list[Tensor | None]
PassOn = Callable[[Call, Signals], Signals]


def own_derivative(call: Call, signals: Signals) -> Signals:
    """Teach a layer, and pass on what its own derivative gives: back-propagation."""
    call.teach(signals)
    return [leaf.grad for leaf in call.inputs]


@contextmanager
def chained(
    layers: Mapping[str, nn.Module],
    pass_on: PassOn = own_derivative,
    by_derivative: Callable[[Call], bool] = lambda _call: True,
) -> Iterator[None]:
    """Let every layer that is evaluated in the context teach itself, and pass its signal on, in its own way.

    The loss's `backward()` sets it off and brings signals through what lies between layers.

    Args:
        layers: By name.
        pass_on: Called with a layer's evaluation and the signals that arrived at its outputs, None where none did. It
            is to call `call.teach`, and to return the signals for `call.given`, of their shapes.
        by_derivative: Whether `call.teach` is to collect the gradient with respect to `call.inputs` as well.
    """

    def enter(call: Call, arguments: Any) -> Any:
        return call.cut(arguments, by_derivative(call))

    def leave(call: Call, output: Any) -> Any:
        outputs = differentiable(output)
        call.edges = edges_of(outputs)
        if call.given and not outputs:  # frozen, and cut without a gradient: signals pass all the same
            outputs = [
                leaf for leaf in trees.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
            ]
        if not outputs:
            return output
        carried = _Carry.apply(call, pass_on, outputs, torch.empty(0, requires_grad=True), *call.given)
        return replaced(output, outputs, carried)

    with intercepted(layers, enter, leave):
        yield


class _Carry(torch.autograd.Function):
    """Joins the graph before a layer to that behind it; the layer's own graph is the `Call`'s.

    It takes an empty tensor that requires a gradient, so that a layer with no differentiable input, such as the first,
    is taught as well.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, pass_on: PassOn, outputs: list[Tensor], _seed: Tensor, *_given: Tensor) -> Any:
        ctx.call, ctx.pass_on = call, pass_on
        ctx.set_materialize_grads(False)
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *signals: Tensor | None) -> Any:
        call, ctx.call = ctx.call, None
        return (None, None, None, None, *ctx.pass_on(call, list(signals)))
