"""The layers of a network, and single evaluations of them cut off from what came before.

A layer is a module with weights of its own: linear, convolution, embedding, attention, or written by the user. What
lies between layers (activations, pooling, norms, sums of branches, whatever the network's `forward` does by itself)
passes signals by its own derivative, and where it has parameters, such as a norm's, they learn from what passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize
from torch.utils import _pytree as trees

from beyondprop.errors import UserError

Kinds = tuple[type[nn.Module], ...]

NORMS: Kinds = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)
"""Modules with parameters that are no layers: each number of their output belongs to the same number of their input."""


def find_layers(network: nn.Module, whole: Kinds = ()) -> dict[str, nn.Module]:
    """Find a network's layers, by name, each once.

    Args:
        network: Any module.
        whole: Classes of modules to be taken as one layer with all that is in them; inside, autograd differentiates.

    Returns:
        Modules of the classes in `whole`, and innermost modules with trainable or frozen parameters of their own.
    """
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()

    def visit(name: str, module: nn.Module) -> None:
        if module in seen or isinstance(module, NORMS):
            return
        seen.add(module)
        if isinstance(module, whole) or _is_layer(module):
            if any(True for _ in module.parameters()):
                found[name] = module
            return
        for child_name, child in module.named_children():
            visit(f"{name}.{child_name}" if name else child_name, child)

    visit("", network)
    return found


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention) or parametrize.is_parametrized(module):
        return True  # their children hold weights that they themselves apply
    own = any(parameter is not None for parameter in module._parameters.values())
    return own and not any(True for child in module.children() for _ in child.parameters())


def computes_as(module: nn.Module, kinds: Kinds) -> bool:
    """Whether a module is of one of these classes, or of a subclass that has kept its `forward`."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that has one by this name."""
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def modules_between(network: nn.Module, layers: Collection[nn.Module], kinds: Kinds) -> dict[str, nn.Module]:
    """Find the modules of given classes that are no part of a layer, by name, each once."""
    inside = {part for layer in layers for part in layer.modules()}
    return {name: m for name, m in network.named_modules() if isinstance(m, kinds) and m not in inside}


class Call:
    """One evaluation of one layer, whose graph begins at its inputs.

    Attributes:
        name: Of the layer.
        layer: The module.
        given: Its tensor inputs that carry a graph, as they came, each once.
        inputs: The same, cut off from that graph.
        edges: Where the layer's own graph begins: its differentiable outputs.
        outputs: Where the graph behind the layer ends, for those who look for it there; one for each of `edges`.
    """

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name, layer
        self.given: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.edges: list[GradientEdge] = []
        self.outputs: list[GradientEdge] = []

    def cut(self, tree: Any, with_gradient: bool) -> Any:
        """Cut every tensor in the layer's arguments off its graph; `with_gradient` lets it collect a gradient."""
        return map_tensors(lambda tensor: self._cut(tensor, with_gradient), tree)

    def gate(self, tree: Any, gate: Gate) -> Any:
        """Let every tensor in the layer's arguments keep its graph, behind a gate that can be shut."""
        return map_tensors(lambda tensor: self._given(tensor, lambda: _Gated.apply(gate, tensor)), tree)

    def _cut(self, tensor: Tensor, with_gradient: bool) -> Tensor:
        return self._given(tensor, lambda: tensor.detach().requires_grad_(with_gradient))

    def _given(self, tensor: Tensor, replace: Callable[[], Tensor]) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        for before, after in zip(self.given, self.inputs, strict=True):
            if before is tensor:
                return after
        self.given.append(tensor)
        self.inputs.append(replace())
        return self.inputs[-1]

    def teach(self, signals: Sequence[Tensor | None]) -> None:
        """Call the layer's own vector-Jacobian product.

        Args:
            signals: For each of `edges`, what stands in the place of the loss's derivative with respect to it, of its
                shape; None where nothing arrives. Products are added to the `.grad` of the layer's parameters and,
                where they were cut with a gradient, of `inputs`. The call's graph is freed.
        """
        if not self.edges:  # frozen
            return
        arrived = [(edge, signal) for edge, signal in zip(self.edges, signals, strict=True) if signal is not None]
        if arrived:
            edges, values = zip(*arrived, strict=True)
            torch.autograd.backward(edges, values)
        self.edges = []


class Gate:
    """What stands before the inputs of all layers in a graph that was not cut; shut, it stops signals there.

    Attributes:
        open: Whether signals pass.
    """

    def __init__(self) -> None:
        self.open = True


class _Gated(torch.autograd.Function):
    """The same tensor behind a gate."""

    @staticmethod
    def forward(ctx: Any, gate: Gate, tensor: Tensor) -> Tensor:
        ctx.gate = gate
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Any:
        return None, signal if ctx.gate.open else None


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to all tensors in a module's arguments or output."""
    if isinstance(tree, Tensor):  # the usual shapes by hand: torch's own way through a tree costs as much as a layer
        return function(tree)
    if type(tree) is tuple:
        return tuple(map_tensors(function, part) for part in tree)
    return trees.tree_map_only(Tensor, function, tree) if tree != {} else tree


def differentiable(output: Any) -> list[Tensor]:
    """List the tensors in a module's output that carry a graph."""
    if isinstance(output, Tensor):
        return [output] if output.requires_grad else []
    return [leaf for leaf in trees.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]


def replaced(output: Any, before: Sequence[Tensor], after: Sequence[Tensor]) -> Any:
    """Put tensors in the place of others in a module's output."""
    known = {id(old): new for old, new in zip(before, after, strict=True)}
    return map_tensors(lambda tensor: known.get(id(tensor), tensor), output)


def edges_of(tensors: Sequence[Tensor]) -> list[GradientEdge]:
    """Note where signals enter; later operations in place change the tensors and not these."""
    return [get_gradient_edge(tensor) for tensor in tensors]


@contextmanager
def intercepted(
    layers: Mapping[str, nn.Module],
    enter: Callable[[Call, Any], Any],
    leave: Callable[[Call, Any], Any],
) -> Iterator[None]:
    """Watch every evaluation of the layers; the modules are as before when the context ends.

    Args:
        layers: By name.
        enter: Called with the evaluation and the layer's arguments, (args, kwargs); what it returns the layer gets.
        leave: Called with the evaluation and the layer's output; what it returns the network goes on with.

    Raises:
        UserError: In the context, when a trainable layer is evaluated without a graph, or anew while signals go down.
    """
    running: list[Call] = []
    with ExitStack() as hooks:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and its import takes seconds
            hooks.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code would not call the hooks
        for name, layer in layers.items():

            def before(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> Any:
                _check_evaluation(name, module)
                running.append(Call(name, module))
                return enter(running[-1], (args, kwargs))

            def after(_module: nn.Module, _args: Any, output: Any) -> Any:
                return leave(running.pop(), output)

            hooks.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(after).remove)
        yield


def _check_evaluation(name: str, layer: nn.Module) -> None:
    """Refuse what would teach a layer wrongly, or not at all, without a word."""
    if torch._C._current_graph_task_id() != -1:
        raise UserError(
            f"layer {name or 'network'} is evaluated again while signals go down, as gradient checkpointing does: "
            "switch checkpointing off, this rule keeps less than back-propagation does"
        )
    # In evaluation mode it may be the search for the layer that is not finite.
    if (
        layer.training
        and not torch.is_grad_enabled()
        and any(parameter.requires_grad for parameter in layer.parameters())
    ):
        raise UserError(
            f"layer {name or 'network'} is evaluated without gradients, by torch.no_grad or by checkpointing, and has "
            "parameters to be trained: freeze them by requires_grad_(False), or switch that off"
        )


@contextmanager
def unfrozen(network: nn.Module) -> Iterator[None]:
    """Let every parameter require a gradient, so that what is frozen today can be trained tomorrow."""
    frozen = [p for p in network.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def reachable(node: Node | None) -> set[Node]:
    """All nodes of the graph below one, itself among them."""
    seen: set[Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [before for before, _ in node.next_functions]
    return seen
