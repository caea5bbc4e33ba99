"""What rules of targets through time share: one recurrent layer inside a user's network, taught by targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from beyondprop.checks import check_number
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.inputs import check_example
from beyondprop.networks.sequences import PieceReader
from beyondprop.rule import is_finite
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.signals.recurrent_layers import (
    Layer,
    Linearised,
    Recurrent,
    kind_of,
    linearise,
    recurrent_layer,
    run_layer,
    unsupported,
    weights_of,
)
from beyondprop.rules.signals.time_recursion import pull_back, weight_gradients

Mode = Literal["local", "through_time"]
CLIP = 1e-3  # of the released code of TP-RI


class RecurrentTargets(NetworkRule):
    """Base of rules that give each state h_t of a recurrent layer a target v_t = h_t + d_t.

    The recurrent layer learns by Σ_t ½‖h_t - v_t‖² with fixed targets, all else by autograd: what stands before it by
    1/g of that sum, so that its gradients have the scale of the readout's. Subclasses write `prepare`, once a batch,
    and `displacements`.

    Args:
        network: Any module whose forward runs one nn.RNN or nn.GRU once, a stack where it has several layers. What
            stands behind it (a readout of the last state or of all) and before it (an embedding) is the user's.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        target_step: g, how far a state moves against the loss's gradient for its target.
        mode: `"local"`: h_{t-1} counts as given where h_t is differentiated; `"through_time"`: it does not, so that
            what a target asks of h_t reaches the weights through all earlier states too.
        clip: Distance from the ends of their range to which states and gates are kept where something is divided by
            their slope.
    """

    follows_gradient: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        target_step: float = 1e-2,
        mode: Mode = "through_time",
        clip: float = CLIP,
    ) -> None:
        super().__init__(network, loss)
        if mode not in get_args(Mode):
            raise UserError(f"mode must be one of {', '.join(get_args(Mode))}, not {mode!r}")
        check_number(target_step=target_step, above=True)
        if not 0 < clip < 0.5:
            raise UserError(f"clip must lie between 0 and 0.5, not {clip}")
        self.target_step, self.mode, self.clip = target_step, mode, clip

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """A network must have one nn.RNN or nn.GRU, one-directional and without dropout between its layers."""
        return unsupported(network)

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """A network with a recurrent layer, or any without one that takes numbers, as `for_classifier` tells."""
        if any(isinstance(module, nn.RNNBase) for module in network.modules()):
            return cls.supports(network)
        if not example.is_floating_point():
            return f"{cls.supports(network)}; inputs of {example.dtype} cannot be read piece by piece before it"
        return None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself where it has a recurrent layer, else as the readout of one.

        The recurrent layer then reads an input piece by piece, and a linear layer gives the classifier what it takes.
        """
        del classes
        check_example(example, network)
        if reason := cls.supports_classifier(network, example):
            raise UnsupportedNetworkError(reason)
        if any(isinstance(module, nn.RNNBase) for module in network.modules()):
            return cls(network, **options)
        return cls(PieceReader(network, example.shape[1:]), **options)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The recurrent layer's weights, whose `.grad` has the factor g in it, and all others, whose has not."""
        _, module = recurrent_layer(self.network)
        recurrent = {id(p) for p in module.parameters()}
        groups: dict[str, list[nn.Parameter]] = {"recurrent": [], "readout": []}
        for parameter in self._taught():
            groups["recurrent" if id(parameter) in recurrent else "readout"].append(parameter)
        return [{"name": name, "params": members} for name, members in groups.items() if members]

    def _taught(self) -> list[nn.Parameter]:
        return [p for p in (*self.network.parameters(), *self.loss_parameters()) if p.requires_grad]

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Differentiate the loss; where it reaches the recurrent layer, targets take over."""
        del phase
        with self._recurrence(self._taught_by_targets) as runs:
            scores = self.network(x)
        self._require_one(runs)
        loss = self.measured(scores, x, y)
        loss.backward()
        return loss

    def targets(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Compute the targets of a batch, for those who look at them: no `.grad` is moved.

        Args:
            x: Inputs.
            y: What the loss compares the network's output with.

        Returns:
            v, shape (batch, time, hidden), of every layer of the stack: by the recurrent module's name and `.l0`,
            `.l1` and so on, as torch numbers its weights.
        """
        leaves: list[Tensor] = []
        layers: list[Layer] = []

        def cut(found: list[Layer], output: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
            layers.extend(found)
            leaves.extend(part.detach().requires_grad_() for part in (output, last))
            return leaves[0], leaves[1]

        with torch.enable_grad(), self._recurrence(cut) as runs:
            loss = self.measured(self.network(x), x, y)
        self._require_one(runs)
        seeds = torch.autograd.grad(loss, leaves, allow_unused=True)
        with torch.no_grad():
            teachers = self._teachers(layers)
            found = self._displaced(layers, teachers, self._time_first(seeds[0]), seeds[1])
        name, _ = recurrent_layer(self.network)
        numbered = enumerate(zip(layers, found, strict=True))
        return {f"{name}.l{number}": (layer.states + d).transpose(0, 1) for number, (layer, d) in numbered}

    @abstractmethod
    def prepare(self, layer: Layer, number: int) -> Any:
        """Compute what all steps of a layer share, before the loss is known.

        Args:
            layer: Its run.
            number: Of the layer in its stack, from 0.
        """

    @abstractmethod
    def displacements(
        self, layer: Layer, linear: Linearised, shared: Any, seeds: Tensor, *, below: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Carry displacements backwards in time.

        Args:
            layer: Its run.
            linear: Its steps' slopes.
            shared: What `prepare` gave.
            seeds: What moves each state from outside the recurrence, shape (time, batch, hidden); may be overwritten.
            below: Whether the layer's inputs are states with targets of their own.

        Returns:
            d, of the seeds' shape, and how the inputs are displaced, or None.
        """

    def _teachers(self, layers: list[Layer]) -> list[tuple[Linearised, Any]]:
        return [(linearise(layer, self.clip), self.prepare(layer, number)) for number, layer in enumerate(layers)]

    def _displaced(
        self, layers: list[Layer], teachers: list[Any], output: Tensor | None, last: Tensor | None
    ) -> list[Tensor]:
        """Displacements of every layer, from the gradients of the loss by the output and by the last states."""
        found, from_above = list[Tensor](), None
        for number in reversed(range(len(layers))):
            layer, (linear, shared) = layers[number], teachers[number]
            if number == len(layers) - 1 and output is not None:
                seeds = output.to(layer.states.dtype) * -self.target_step
            else:
                seeds = torch.zeros_like(layer.states)
            if last is not None:
                seeds[-1] -= self.target_step * last[number]
            if from_above is not None:
                seeds += from_above
            d, from_above = self.displacements(layer, linear, shared, seeds, below=number > 0)
            if not is_finite(d[0]):
                name, _ = recurrent_layer(self.network)
                raise NonFiniteError(
                    f"targets of layer {name} grew to infinity on their way back in time: raise the regularisation"
                )
            found.insert(0, d)
        return found

    def _gradients(
        self, layers: list[Layer], teachers: list[Any], found: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Differentiate Σ ½‖h - v‖²: by the inputs and h_0, both divided by g, and by all weights in torch's order."""
        weights, first, inputs = list[Tensor | None](), list[Tensor](), None
        for layer, (linear, _), d in zip(layers[::-1], teachers[::-1], found[::-1], strict=True):
            errors = -d
            if self.mode == "through_time":
                if inputs is not None:
                    errors += inputs
                pull_back(errors, linear.of_state, layer.weights.of_state, linear.keep)
            own, inputs, before = weight_gradients(layer, linear, errors)
            weights[:0] = [g for g, weight in zip(own, layer.weights, strict=True) if weight is not None]
            first.insert(0, before)
        assert inputs is not None
        # What stands before the layer learns beside the readout, whose gradients have no g in them.
        return inputs / self.target_step, torch.stack(first) / self.target_step, weights

    def _taught_by_targets(self, layers: list[Layer], output: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teachers = self._teachers(layers)
        x, before = layers[0].inputs, torch.stack([layer.before for layer in layers])
        weights = [weight for layer in layers for weight in layer.weights if weight is not None]
        taught: tuple[Tensor, Tensor] = _Taught.apply((self, layers, teachers), output, last, x, before, *weights)
        return taught

    def _time_first(self, values: Tensor | None) -> Tensor | None:
        _, module = recurrent_layer(self.network)
        return values.transpose(0, 1) if values is not None and module.batch_first else values

    def _require_one(self, runs: list[int]) -> None:
        if len(runs) != 1:
            name, _ = recurrent_layer(self.network)
            raise UnsupportedNetworkError(f"layer {name} ran {len(runs)} times in a forward pass: it must run once")

    @contextmanager
    def _recurrence(self, take: Callable[[list[Layer], Tensor, Tensor], tuple[Tensor, Tensor]]) -> Iterator[list[int]]:
        """Within it the recurrent layer runs without a graph, and `take` gives what it returns instead."""
        _, module = recurrent_layer(self.network)
        runs, modes = list[int](), list[bool]()

        def begin(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
            modes.append(torch.is_grad_enabled())
            torch.set_grad_enabled(False)

        def end(_module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
            torch.set_grad_enabled(modes[-1])
            runs.append(1)
            given = (args[0] if args else kwargs["input"]), (args[1] if len(args) > 1 else kwargs.get("hx"))
            return self._replaced(module, *given, result, take)

        handles = [
            module.register_forward_pre_hook(begin, with_kwargs=True),
            module.register_forward_hook(end, with_kwargs=True),
        ]
        try:
            with torch.enable_grad():
                yield runs
        finally:
            for handle in handles:
                handle.remove()

    def _replaced(self, module: Recurrent, x: Any, before: Tensor | None, result: Any, take: Any) -> Any:
        """What the recurrent module returns, once `take` has had a hand in it."""
        name, _ = recurrent_layer(self.network)
        if isinstance(x, PackedSequence) or x.ndim != 3:
            raise UserError(
                f"layer {name} needs a batch of sequences of one length, three dimensions, and no packed ones: pad "
                "them, and leave the padding out of the loss"
            )
        output, last = result
        kind, dtype = kind_of(module), weights_of(module, 0).of_state.dtype
        with torch.autocast(x.device.type, enabled=False):  # differences of close numbers are taken below
            turned = x.to(dtype).transpose(0, 1) if module.batch_first else x.to(dtype)
            states = output.to(dtype).transpose(0, 1) if module.batch_first else output.to(dtype)
            start = torch.zeros_like(last, dtype=dtype) if before is None else before.to(dtype)
            layers = list[Layer]()
            for number, first in enumerate(start.unbind(0)):
                weights, inputs = weights_of(module, number), layers[-1].states if layers else turned
                top = number == module.num_layers - 1
                with torch.no_grad():
                    ran = states if top else run_layer(kind, weights, inputs, first)
                layers.append(Layer(kind, weights, inputs, ran, first))
            return take(layers, output, last)


class _Taught(torch.autograd.Function):
    """The recurrent layer's output as it is; its derivative is that of the targets' loss."""

    @staticmethod
    def forward(ctx: Any, made: Any, output: Tensor, last: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what the targets are made of."""
        ctx.rule, ctx.layers, ctx.teachers = made
        ctx.set_materialize_grads(False)
        return output.view_as(output), last.view_as(last)

    @staticmethod
    def backward(ctx: Any, output: Tensor | None, last: Tensor | None) -> Any:
        """Compute targets from the gradients of the loss, and differentiate the distance from them."""
        rule, layers = ctx.rule, ctx.layers
        device = layers[0].states.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            found = rule._displaced(layers, ctx.teachers, rule._time_first(output), last)
            inputs, before, weights = rule._gradients(layers, ctx.teachers, found)
        return None, None, None, inputs, before, *weights
