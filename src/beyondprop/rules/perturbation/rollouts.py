"""Several rollouts of one network as one batched evaluation, each with noise of its own; and what a layer learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.layers.decorrelation import Decorrelation
from beyondprop.networks.recurrent import Recurrent
from beyondprop.rule import add_gradient, without_trace

SIGNS = torch.tensor([[1.0 if byte >> bit & 1 else -1.0 for bit in range(8)] for byte in range(256)])


class Call(NamedTuple):
    """One call of a perturbed layer: its clean inputs, and its outputs in all rollouts, the clean one first."""

    layer: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: Tensor


@dataclass
class Rollouts:
    """What several rollouts gave; the clean one stands first.

    Attributes:
        outputs: Of the network, shape (rollouts, batch, ...).
        states: Of a sequence network, after the last step, shape (rollouts, batch, hidden).
        calls: Of the perturbed layers, in order.
        decorrelated: Clean outputs of each decorrelating layer.
    """

    outputs: Tensor
    states: Tensor | None
    calls: list[Call]
    decorrelated: dict[Decorrelation, list[Tensor]]


def draw(shape: Sequence[int], like: Tensor, *, signs: bool) -> Tensor:
    """Draw noise of variance 1.

    Args:
        shape: Its shape.
        like: Whose type and device it has.
        signs: ±1, of which random bytes give eight each; otherwise normal.
    """
    if not signs:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    count = torch.Size(shape).numel()
    octets = torch.randint(-(2**63), 2**63 - 1, (count // 64 + 1,), device=like.device).view(torch.uint8)
    table = SIGNS.to(device=like.device, dtype=like.dtype)
    return table.index_select(0, octets.int()).flatten()[:count].view(shape)


def output_shapes(network: nn.Module, layers: Mapping[nn.Module, str], x: Tensor) -> list[torch.Size]:
    """Find the shape of every output of the layers, in the order of their calls, by a pass that leaves no trace."""
    with without_trace(network), _Watch(network, layers) as watch:
        network(x)
    return [output.shape for _, _, output in watch.calls]


def roll_out(
    network: nn.Module,
    x: Tensor,
    count: int,
    *,
    layers: Mapping[nn.Module, str],
    moves: list[Tensor],
    weights: Mapping[str, Tensor],
    states: Tensor | None = None,
) -> Rollouts:
    """Evaluate a network several times at once, with one dropout mask for all; statistics move by the first alone.

    Args:
        network: In the mode in which it is to run.
        x: Inputs, the same for all.
        count: How many rollouts.
        layers: Those whose outputs move, with their names.
        moves: By how much, shape (count, *output), in the order of the calls.
        weights: Parameters in place of the network's, by name, shape (count, *parameter).
        states: From which a sequence network starts, shape (count, batch, hidden); zeros where there are none.

    Raises:
        UnsupportedNetworkError: The network does what cannot be batched.
    """
    runner = _Runner(network)
    buffers = {name: buffer.expand(count, *buffer.shape).clone() for name, buffer in network.named_buffers()}
    watch = _Watch(network, layers)

    def rollout(moves: list[Tensor], tensors: dict[str, Tensor], starts: list[Tensor]) -> Any:
        watch.begin(moves)
        named = {f"network.{name}": tensor for name, tensor in tensors.items()}
        outputs, state = functional_call(runner, named, (x, *starts))
        found = [call.inputs for call in watch.calls], [call.outputs for call in watch.calls]
        return outputs, state, *found, [outputs for _, outputs in watch.decorrelated]

    with watch:
        try:
            outputs, state, inputs, results, decorrelated = torch.vmap(rollout, randomness="same")(
                moves, {**weights, **buffers}, [] if states is None else [states]
            )
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise UnsupportedNetworkError(f"the network's evaluations cannot be batched: {reason}") from error
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name][0])
    called = [call.layer for call in watch.calls]
    found: dict[Decorrelation, list[Tensor]] = {}
    for (layer, _), values in zip(watch.decorrelated, decorrelated, strict=True):
        found.setdefault(layer, []).append(values[0])
    watch.begin(None)  # what was noted inside the batched evaluation has no meaning outside it
    calls = [
        Call(layer, tuple(x[0] for x in given), result)
        for layer, given, result in zip(called, inputs, results, strict=True)
    ]
    return Rollouts(outputs, state if isinstance(network, Recurrent) else None, calls, found)


def teach(layer: nn.Module, calls: Sequence[tuple[tuple[Tensor, ...], Tensor]]) -> None:
    """Add to a layer's parameters what its own vector-Jacobian product makes of signals.

    Args:
        layer: Of which nothing but parameters' `.grad` changes.
        calls: Inputs, and the signal, of the output's shape, of each of its calls.
    """
    parameters = [p for p in layer.parameters() if p.requires_grad]
    for inputs, signal in calls if parameters else ():
        buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        with torch.enable_grad():
            gradients = torch.autograd.grad(functional_call(layer, buffers, inputs), parameters, signal)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            add_gradient(parameter, gradient)


def joined(inputs: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Make the inputs of one call of those of several, one batch behind the other."""
    return tuple(torch.cat(parts) for parts in zip(*inputs, strict=True))


class _Runner(nn.Module):
    """A network as something that is called with a state and gives one: of no meaning where it is no sequence's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run it."""
        return self.network.run(x, state) if isinstance(self.network, Recurrent) else (self.network(x), x.new_zeros(()))


class _Watch:
    """Notes the calls of layers while it is entered, and moves their outputs where `begin` has told by how much."""

    def __init__(self, network: nn.Module, layers: Mapping[nn.Module, str]) -> None:
        self.network, self.layers = network, layers
        self.hooks = ExitStack()
        self.begin(None)

    def begin(self, moves: list[Tensor] | None) -> None:
        """Forget what was noted."""
        self.moves = moves
        self.calls: list[Call] = []
        self.decorrelated: list[tuple[Decorrelation, Tensor]] = []

    def __enter__(self) -> _Watch:
        for layer in self.layers:
            self.hooks.callback(layer.register_forward_hook(self._called, with_kwargs=True).remove)
        for layer in self.network.modules():
            if isinstance(layer, Decorrelation):
                self.hooks.callback(layer.register_forward_hook(self._decorrelated).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()

    def _called(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs or not all(isinstance(value, Tensor) for value in (*args, output)):
            raise UnsupportedNetworkError(
                f"layer {self.layers[layer]} ({type(layer).__name__}) takes options or gives several tensors, so that "
                "its output cannot be perturbed by itself: perturb weights"
            )
        if self.moves is not None:
            output = output + self.moves[len(self.calls)]
        self.calls.append(Call(layer, args, output))
        return output.clone()  # an activation may work in place

    def _decorrelated(self, layer: Decorrelation, _args: Any, output: Tensor) -> None:
        self.decorrelated.append((layer, output))
