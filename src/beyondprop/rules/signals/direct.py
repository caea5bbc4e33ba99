"""A teaching signal that goes straight to every hidden layer, past all the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules import activation

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.inputs import check_example, running_example
from beyondprop.rule import add_gradient, evaluating
from beyondprop.rules.signals.layers import (
    Call,
    Gate,
    Kinds,
    differentiable,
    edges_of,
    find_layers,
    intercepted,
    modules_between,
    reachable,
    replaced,
    unfrozen,
)

ACTIVATIONS: Kinds = tuple(
    kind
    for kind in vars(activation).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind not in (nn.Module, nn.MultiheadAttention)
)
UNROLLED: Kinds = (nn.RNNBase,)


class Point(NamedTuple):
    """Where a signal enters: the activation of one or several layers.

    Attributes:
        name: Of the last of these layers that was evaluated, which names the feedback weights too.
        value: The activation, a tensor with a graph that begins at the layers' inputs.
        edge: Where the signal enters; what follows in place changes the value's own.
        calls: The layers' evaluations.
        parameters: What else is trainable between the layers and here, such as a norm's scale.
        source: The activation module whose output the value is; None where it is the input of a layer.
        alone: Whether the value's graph holds nothing but what belongs to this point: it is differentiated in one go.
    """

    name: str
    value: Tensor
    edge: GradientEdge
    calls: list[Call]
    parameters: list[nn.Parameter]
    source: nn.Module | None
    alone: bool

    def teach(self, signal: Tensor) -> None:
        """Add to the `.grad` of all parameters of this point the products with a signal of the value's shape."""
        if self.alone:
            torch.autograd.backward([self.edge], [signal])
            return
        outputs = [output for call in self.calls for output in call.outputs]
        entries = [*outputs, *(get_gradient_edge(parameter) for parameter in self.parameters)]
        found = iter(torch.autograd.grad([self.edge], entries, [signal], allow_unused=True))
        for call in self.calls:
            call.teach([next(found) for _ in call.edges])
        for parameter, gradient in zip(self.parameters, found, strict=True):
            add_gradient(parameter, gradient)

    def teach_again(self, signal: Tensor) -> None:
        """As `teach`, of a point whose layers' inputs stand behind a gate, which must be shut; the graph is kept."""
        outputs = [output for call in self.calls for output in call.outputs]
        entries = [*outputs, *(get_gradient_edge(parameter) for parameter in self.parameters)]
        found = iter(torch.autograd.grad([self.edge], entries, [signal], allow_unused=True, retain_graph=True))
        for call in self.calls:
            own = [parameter for parameter in call.layer.parameters() if parameter.requires_grad]
            arrived = [(edge, value) for edge in call.edges if (value := next(found)) is not None]
            if arrived and own:
                edges, values = zip(*arrived, strict=True)
                torch.autograd.backward(edges, values, inputs=own, retain_graph=True)
        for parameter, gradient in zip(self.parameters, found, strict=True):
            if gradient is not None:
                add_gradient(parameter, gradient)


class Direct:
    """Finds the points of a network, and cuts the layers apart while it is evaluated.

    A point is the output of an activation module, or the input of a layer, whichever comes first behind a layer. Each
    layer's evaluation belongs to the first point that it reaches: in a residual network a block belongs to the point
    behind it, and not, along the skip connections, to all later ones too.

    Args:
        network: Any module.
        example: One input batch, run once without a trace.
        whole: Classes of modules to be taken as one layer.
        others: Parameters that are not the network's and learn with the last layer, such as the loss's.

    Attributes:
        scores: Shape of the network's output for the example.
        shapes: Of every hidden point's value without the batch, by name.
        activations: The class of the activation module of every hidden point that has one, by name.

    Raises:
        UnsupportedNetworkError: A layer's outputs differ in shape from one evaluation to the next, or do not begin with
            the batch; or the network's output is no tensor.
    """

    def __init__(
        self, network: nn.Module, example: Tensor, whole: Kinds = (), others: Iterable[nn.Parameter] = ()
    ) -> None:
        check_example(example, network)
        self._layers = find_layers(network, whole)
        self._activations = modules_between(network, self._layers.values(), ACTIVATIONS)
        self._parameters = {*network.parameters(), *others}
        self.shapes: dict[str, torch.Size] = {}
        self.activations: dict[str, type[nn.Module]] = {}
        self.scores = torch.Size()
        with unfrozen(network), running_example(example):
            while not self._survey(network, example):
                pass

    @staticmethod
    def objection(network: nn.Module, whole: Kinds = ()) -> str | None:
        """Tell why the layers of a network cannot be taught directly, or None."""
        layers = find_layers(network, whole)
        if not layers:
            return "the network has no layer with weights: nothing can be trained"
        for name, layer in layers.items():
            if isinstance(layer, UNROLLED) and not isinstance(layer, whole):
                kind = type(layer).__name__
                return (
                    f"layer {name or 'network'} ({kind}) unrolls over time inside: write the loop with nn.{kind}Cell, "
                    f"each of whose steps is taught, or give whole=(nn.{kind},) to differentiate through its time steps"
                )
        return None

    @contextmanager
    def watch(self, receive: Callable[[Point], None], gate: Gate | None = None) -> Iterator[_Watch]:
        """Evaluate the network in this context: `receive` gets every hidden point as soon as it is computed.

        Args:
            receive: What takes the points.
            gate: The layers' inputs are not cut off but stand behind it, so that while it is open the output can be
                differentiated with respect to every point. `teach_again` teaches such points.
        """
        watch = _Watch(receive, self._parameters, gate)
        with intercepted(self._layers, watch.enter, watch.leave), ExitStack() as hooks:
            for module in self._activations.values():
                hooks.callback(module.register_forward_hook(watch.activated).remove)
            yield watch

    def _survey(self, network: nn.Module, example: Tensor) -> bool:
        """Note all hidden points; or find that an activation module gives the output, forget it, and say False."""
        found: list[tuple[Point, Node]] = []
        # The node is noted at once: what follows in place changes the value's.
        receive = lambda point: found.append((point, point.edge.node))  # noqa: E731
        with evaluating(network), torch.enable_grad(), self.watch(receive) as watch:
            watch.entered = []
            output = network(example)
        if not isinstance(output, Tensor):
            raise UnsupportedNetworkError(f"the network must return one tensor, it returns {type(output).__name__}")
        self.scores = output.shape
        # The output's own activation is taught by the loss. One that other layers read as well is a hidden one.
        outputs = reachable(output.grad_fn) - {node for entered in watch.entered for node in reachable(entered)}
        own = {point.source for point, node in found if point.source is not None and node in outputs}
        if own:
            self._activations = {name: m for name, m in self._activations.items() if m not in own}
            return False
        for point, _ in found:
            shape = point.value.shape
            if len(shape) < 2 or shape[0] != len(example):
                raise UnsupportedNetworkError(
                    f"layer {point.name} gives {tuple(shape)} for a batch of {len(example)}: the batch must come first"
                )
            if self.shapes.setdefault(point.name, shape[1:]) != shape[1:]:
                raise UnsupportedNetworkError(
                    f"layer {point.name} is used for outputs of two shapes, {tuple(self.shapes[point.name])} and "
                    f"{tuple(shape[1:])}: one feedback cannot serve both"
                )
            if point.source is not None:
                self.activations[point.name] = type(point.source)
        return True


class _Watch:
    """The evaluations since the last point."""

    def __init__(
        self, receive: Callable[[Point], None], parameters: Collection[nn.Parameter], gate: Gate | None
    ) -> None:
        self._receive, self._parameters, self._gate = receive, parameters, gate
        self.entered: list[Node | None] | None = None  # what layers' inputs were computed by, where that is asked for
        self._pending: dict[Node, Call] = {}
        self._seen: set[Node] = set()

    def enter(self, call: Call, arguments: Any) -> Any:
        """Cut a layer's inputs off; what they were computed from is a point."""
        gate = self._gate
        arguments = call.cut(arguments, with_gradient=False) if gate is None else call.gate(arguments, gate)
        for value in call.given:
            if self.entered is not None:
                self.entered.append(value.grad_fn)
            self._point(value, f"input of {call.name}")
        return arguments

    def leave(self, call: Call, output: Any) -> Any:
        """Note where a layer's outputs enter the graph."""
        outputs = differentiable(output)
        call.edges = call.outputs = edges_of(outputs)
        if len(outputs) > 1:  # one may be computed from another: what arrives at each must be told apart
            apart = _Apart.apply(*outputs)
            call.outputs = edges_of(apart)
            output = replaced(output, outputs, apart)
        self._pending |= {edge.node: call for edge in call.outputs}
        return output

    def activated(self, module: nn.Module, _args: Any, output: Any) -> None:
        """The output of an activation module is a point."""
        if isinstance(output, Tensor) and output.requires_grad:
            self._point(output, "network", module)

    def _point(self, value: Tensor, name: str, source: nn.Module | None = None) -> None:
        point = self.claim(value, name, source)
        if point is not None:
            self._receive(point)

    def claim(self, value: Tensor, name: str = "output", source: nn.Module | None = None) -> Point | None:
        """Make a point of all that a value depends on and that belongs to none yet; None where there is nothing.

        Args:
            value: A tensor.
            name: Of the point, where no layer gives it one.
            source: The activation module that gave the value.
        """
        claimed: set[Call] = set()
        parameters: list[nn.Parameter] = []
        alone = True
        passed: set[Node] = set()
        stack = [value.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in passed:
                continue
            if node in self._seen:  # an earlier point's
                alone = False
                continue
            variable = getattr(node, "variable", None)
            if variable is not None:  # a leaf; a norm that is used twice reaches its parameters anew
                if variable not in self._parameters:
                    alone = False
                elif not any(variable is p for p in parameters):
                    parameters.append(variable)
                continue
            passed.add(node)
            if node in self._pending:
                claimed.add(self._pending[node])
            else:
                stack += [before for before, _ in node.next_functions]
        self._seen |= passed
        if not (claimed or parameters):
            return None
        calls = [call for call in dict.fromkeys(self._pending.values()) if call in claimed]  # in their order
        for edge in [edge for call in calls for edge in call.outputs]:
            self._seen.add(edge.node)  # a second output of a layer belongs to the point of its first
            self._pending.pop(edge.node, None)
        alone = alone and all(call.outputs is call.edges for call in calls)
        edge = get_gradient_edge(value)
        return Point(calls[-1].name if calls else name, value, edge, calls, parameters, source, alone)


class _Apart(torch.autograd.Function):
    """The same tensors behind a node of their own, where signals are taken."""

    @staticmethod
    def forward(_ctx: Any, *outputs: Tensor) -> Any:
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(_ctx: Any, *signals: Tensor) -> Any:
        return signals
