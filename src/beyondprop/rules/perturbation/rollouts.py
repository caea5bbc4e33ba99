"""Several rollouts of one network as one batched evaluation, each with noise of its own; and what a layer learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.functional import Tensors, get_buffers, run_with, set_buffers
from beyondprop.layers.decorrelation import Decorrelation
from beyondprop.networks.recurrent import Recurrent, StateLinear
from beyondprop.rule import add_gradient, is_of_vmap, without_trace
from beyondprop.rules.perturbation.linear import by_hand, products

SIGNS = torch.tensor([[1.0 if byte >> bit & 1 else -1.0 for bit in range(8)] for byte in range(256)])


class RolloutCall(NamedTuple):
    """One call of a perturbed layer; in a sequence network, its calls of all steps.

    Attributes:
        layer: Which.
        inputs: Clean ones, shape (batch, ...), or (time * batch, ...).
        outputs: Of all rollouts, the clean one first, shape (rollouts, batch, ...), or (rollouts, time, batch, ...).
        moves: By how much they were moved at this very call, of their shape.
    """

    layer: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: Tensor
    moves: Tensor


@dataclass
class Rollouts:
    """What several rollouts gave; the clean one stands first.

    Attributes:
        outputs: Of the network, shape (rollouts, batch, ...).
        states: Of a sequence network, after the last step, shape (rollouts, batch, hidden).
        calls: Of the perturbed layers, in order; of a sequence network, one for each layer, in the order of a step.
        decorrelated: Clean outputs of each decorrelating layer, of all its calls.
    """

    outputs: Tensor
    states: Tensor | None
    calls: list[RolloutCall]
    decorrelated: dict[Decorrelation, Tensor]


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


def call_shapes(network: nn.Module, layers: Mapping[nn.Module, str], x: Tensor) -> list[torch.Size]:
    """Find the shape of every output of the layers, in the order of their calls, by a pass that leaves no trace."""
    with without_trace(network), _Watch(network, layers) as watch:
        network(x)
    return [call.outputs.shape for call in watch.calls]


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

    Evaluations of the library's own sequence networks are rows of one batch, all others are batched by `torch.vmap`.

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
    if isinstance(network, Recurrent) and not weights and treats_rows_alike(network):
        return _roll_out_in_rows(network, x, count, moves, states)
    runner = _Runner(network)
    buffers = {name: buffer.expand(count, *buffer.shape).clone() for name, buffer in network.named_buffers()}
    watch = _Watch(network, layers)

    def rollout(moves: list[Tensor], tensors: Tensors, buffers: Tensors, starts: list[Tensor]) -> Any:
        watch.begin(moves)
        named = {f"network.{name}": tensor for name, tensor in tensors.items()}
        here = {f"network.{name}": tensor for name, tensor in buffers.items()}
        (outputs, state), moved = run_with(runner, named, here, (x, *starts))
        found = [call.inputs for call in watch.calls], [call.outputs for call in watch.calls]
        return outputs, state, moved, *found, [outputs for _, outputs in watch.decorrelated]

    with watch:
        try:
            outputs, state, moved, inputs, results, decorrelated = torch.vmap(rollout, randomness="same")(
                moves, dict(weights), buffers, [] if states is None else [states]
            )
        except RuntimeError as error:
            if not is_of_vmap(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise UnsupportedNetworkError(f"the network's evaluations cannot be batched: {reason}") from error
    set_buffers({name: value[0] for name, value in moved.items()}, runner)
    called = [call.layer for call in watch.calls]
    found: dict[Decorrelation, list[Tensor]] = {}
    for (layer, _), values in zip(watch.decorrelated, decorrelated, strict=True):
        found.setdefault(layer, []).append(values[0])
    watch.begin(None)  # what was noted inside the batched evaluation has no meaning outside it
    calls = [
        RolloutCall(layer, tuple(x[0] for x in given), result, move)
        for layer, given, result, move in zip(called, inputs, results, moves, strict=True)
    ]
    if isinstance(network, Recurrent):
        calls = [_in_time([call for call in calls if call.layer is layer]) for layer in dict.fromkeys(called)]
    stacked = {layer: torch.stack(values) for layer, values in found.items()}
    return Rollouts(outputs, state if isinstance(network, Recurrent) else None, calls, stacked)


def treats_rows_alike(network: Recurrent) -> bool:
    """Whether `advance_moved` says all that the network does: nobody has changed, replaced or hooked a part of it."""
    kind = type(network)
    written = next(vars(base) for base in kind.__mro__ if "advance" in vars(base))
    known = (kind, StateLinear, nn.Linear, nn.Identity, Decorrelation)
    return (
        "advance_moved" in written
        and (kind.run, kind.forward) == (Recurrent.run, Recurrent.forward)
        and all(type(m) in known and not (m._forward_hooks or m._forward_pre_hooks) for m in network.modules())
    )


def _roll_out_in_rows(
    network: Recurrent, x: Tensor, count: int, moves: list[Tensor], states: Tensor | None
) -> Rollouts:
    """Let the rollouts be rows of one batch, that of the clean one first."""
    (batch, time, _), kinds = x.shape, len(moves) // x.shape[1]
    in_time = [torch.stack(moves[kind::kinds]) for kind in range(kinds)]  # (time, rollouts, batch, units)
    kept = x.new_empty(time + 1, count * batch, network.hidden)
    kept[0] = 0 if states is None else states.flatten(0, 1)
    u = x.transpose(0, 1)
    moved = network.advance_moved(u, in_time[:-1], kept)
    results = [part.outputs.view(time, count, batch, -1) for part in moved]
    inputs = [(u.flatten(0, 1), part.states[:, :batch].flatten(0, 1)) for part in moved]
    clean = kept[1:, :batch]
    results.append(network.readout(kept[1:]).view(time, count, batch, -1) + in_time[-1])
    calls = [
        RolloutCall(layer, given, result.transpose(0, 1), move.transpose(0, 1))
        for layer, given, result, move in zip(
            [*(part.layer for part in moved), network.readout],
            [*inputs, (clean.flatten(0, 1),)],
            results,
            in_time,
            strict=True,
        )
    ]
    decorrelated = {network.decorrelate: clean} if isinstance(network.decorrelate, Decorrelation) else {}
    return Rollouts(results[-1].permute(1, 2, 0, 3), kept[-1].view(count, batch, -1), calls, decorrelated)


def _in_time(calls: Sequence[RolloutCall]) -> RolloutCall:
    """Make one call of those that a layer of a sequence network has had."""
    inputs = (torch.cat(parts) for parts in zip(*(call.inputs for call in calls), strict=True))
    outputs, moves = (torch.stack(parts, dim=1) for parts in zip(*(call[2:] for call in calls), strict=True))
    return RolloutCall(calls[0].layer, tuple(inputs), outputs, moves)


def teach(layer: nn.Module, calls: Sequence[tuple[tuple[Tensor, ...], Tensor]]) -> None:
    """Add to a layer's parameters what its own vector-Jacobian product makes of signals.

    Args:
        layer: Of which nothing but parameters' `.grad` changes.
        calls: Inputs, and the signal, of the output's shape, of each of its calls.
    """
    parameters = [p for p in layer.parameters() if p.requires_grad]
    for inputs, signal in calls if parameters else ():
        if by_hand(layer):
            for parameter, gradient in products(layer, inputs, signal):
                add_gradient(parameter, gradient)
            continue
        with torch.enable_grad():
            gradients = torch.autograd.grad(run_with(layer, {}, get_buffers(layer), inputs)[0], parameters, signal)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            add_gradient(parameter, gradient)


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
        self.calls: list[RolloutCall] = []
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
        self.calls.append(RolloutCall(layer, args, output, output))
        return output.clone()  # an activation may work in place

    def _decorrelated(self, layer: Decorrelation, _args: Any, output: Tensor) -> None:
        self.decorrelated.append((layer, output))
