"""Convergent networks made of a list of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.inputs import check_example, refuse_double, running_example
from beyondprop.rule import without_trace
from beyondprop.rules.relaxation.connections import (
    Connection,
    Gradients,
    Held,
)
from beyondprop.rules.relaxation.costs import Cost, CrossEntropy, SquaredError, dot, one_for_each
from beyondprop.rules.relaxation.sections import split
from beyondprop.rules.relaxation.settling import Contrast, Nudge, PrimitiveNetwork, SettlingNetwork, States

Readout = Literal["softmax", "squared"]
Order = Literal["even-odd", "sequential", "synchronous"]
ORDERS = ("even-odd", "sequential", "synchronous")


class Clamped(NamedTuple):
    """What stays the same while the states settle.

    Attributes:
        x: The input.
        drive: f_1(x), which no state changes.
        held: Masks and statistics.
    """

    x: Tensor
    drive: Tensor
    held: Held


class LayeredNetwork(SettlingNetwork):
    """What convergent networks of layers share: states, their updates without a graph, and readouts.

    See `ConvergentNetwork` for the arguments.
    """

    def __init__(
        self,
        layers: nn.Sequential | Iterable[nn.Module],
        example: Tensor,
        *,
        readout: Readout = "softmax",
        order: Order = "even-odd",
    ) -> None:
        super().__init__()
        if readout not in ("softmax", "squared"):
            raise UserError(f"readout must be softmax or squared, got {readout!r}")
        if order not in ORDERS:
            raise UserError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        self.layers = layers if isinstance(layers, nn.Sequential) else nn.Sequential(*layers)
        self.order = order
        self.cost_function: Cost = CrossEntropy() if readout == "softmax" else SquaredError()
        sections = split(self.layers)
        check_example(example, self.layers)
        self.readout: Connection | None = None
        if sections[-1].activation is None and readout == "softmax":
            self.readout = sections.pop().connection
        self.sections = sections
        if not sections:
            raise UnsupportedNetworkError(
                "the network has no activation before its readout: it has no states to settle"
            )
        self.sample = example.shape[1:]
        with running_example(example), without_trace(self.layers):
            self.outputs = self.layers(example).flatten(1).shape[1]
            self.shapes = [state.shape[1:] for state in self._forward(example)]

    # -- the contract ---------------------------------------------------------------------------------------------

    def prepare(self, x: Tensor) -> Clamped:
        """Compute what the input gives to the first states."""
        self._check(x)
        held = Held(measuring=True)
        drive, _ = self.sections[0].connection.push(channels_last(x), held)
        return Clamped(x, channels_last(drive), held)

    def _check(self, x: Tensor) -> None:
        """Refuse a batch of other samples than the example's."""
        if x.shape[1:] != self.sample or not x.ndim:
            expected = ", ".join(["batch", *map(str, self.sample)])
            raise UserError(f"x has shape {tuple(x.shape)}, but the network was made for ({expected})")
        refuse_double(x, self.layers)
        dtype = next(self.layers.parameters()).dtype
        if x.dtype != dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
            raise UserError(f"x is {x.dtype} and the weights are {dtype}: give x.to({dtype})")

    def repeat(self, inputs: Clamped, copies: int) -> Clamped:
        """As often, without computing the drive again."""
        return Clamped(torch.cat([inputs.x] * copies), torch.cat([inputs.drive] * copies), inputs.held.repeated(copies))

    def conclude(self, inputs: Clamped) -> None:
        """Move the running statistics of batch norms; from now on they are held as they are."""
        inputs.held.settle()
        for connection in self.connections():
            for stage in connection.stages:
                if hasattr(stage, "conclude"):
                    stage.conclude(inputs.held)

    def initial_states(self, inputs: Clamped) -> States:
        """Zeros."""
        zeros = (inputs.drive.new_zeros((len(inputs.x), *shape)) for shape in self.shapes)
        return [channels_last(state) for state in zeros]

    def step(self, inputs: Clamped, states: States, nudge: Nudge | None = None) -> States:
        """Move all states at once."""
        return next(self._settle(inputs, states, 1, nudge, "synchronous"))

    def trajectory(
        self, inputs: Clamped, states: States | None, steps: int, nudge: Nudge | None = None
    ) -> Iterator[States]:
        """Let the network settle in its own order."""
        return self._settle(inputs, states, steps, nudge, self.order)

    def reach(self, states: States) -> int:
        """As many steps as there are states in synchronous order, half in even-odd, one in sequential order."""
        return -(-len(states) // len(grouped(len(states), self.order, nudged=True)))

    def scores(self, inputs: Clamped, states: States) -> Tensor:
        """The readout of the last state, or that state."""
        if self.readout is None:
            return states[-1].flatten(1)
        return self.readout.push(states[-1], inputs.held)[0]

    def cost(self, inputs: Clamped, states: States, y: Tensor) -> Tensor:
        """The loss of each sample."""
        return self.cost_function.value(self.scores(inputs, states), y)

    def targets(self, y: Tensor, scores: Tensor) -> Tensor:
        """Labels, or one-hot vectors."""
        return self.cost_function.targets(y, scores)

    def names(self, states: States) -> list[str]:
        """Each state by the layer whose output it is."""
        return [section.name for section in self.sections]

    # -- the dynamics ---------------------------------------------------------------------------------------------

    def _settle(
        self, inputs: Clamped, states: States | None, steps: int, nudge: Nudge | None, order: Order
    ) -> Iterator[States]:
        """Give the states after each step; those that a step moves at once see each other's values before.

        f(s) is computed once for each s, and serves the states above and the way back.
        """
        held, count = inputs.held, len(self.sections)
        now = list(self.initial_states(inputs) if states is None else states)
        pushed: list[tuple[Tensor, Any] | None] = [(inputs.drive, None)] + [None] * (count - 1)
        groups = grouped(count, order, nudge is not None)

        def push(number: int) -> tuple[Tensor, Any]:
            known = pushed[number]
            if known is None:
                known = pushed[number] = self.sections[number].connection.push(now[number - 1], held)
            return known

        moved = set() if states is None else set(range(count))  # from the others, still zero, nothing comes down
        for _ in range(steps):
            for group in groups:
                fresh = {}
                for number in group:
                    drive = push(number)[0]
                    if number + 1 < count and number + 1 in moved:
                        drive = self._pull(number + 1, now, push, held, drive)
                    if nudge is not None and number == count - 1:
                        drive = drive - self._nudged(now[-1], nudge, held)
                    fresh[number] = self.sections[number].squash(drive)
                for number, value in fresh.items():
                    now[number] = value
                    moved.add(number)
                    if number + 1 < count:
                        pushed[number + 1] = None
            yield list(now)

    def _pull(self, number: int, now: States, push: Any, held: Held, base: Tensor) -> Tensor:
        """Return base and what state `number` sends down to the one below."""
        return self.sections[number].connection.pull(now[number], push(number)[1], held, base)

    def _nudged(self, state: Tensor, nudge: Nudge, held: Held) -> Tensor:
        """Beta dL/ds of the last state."""
        scores, memory = (state.flatten(1), None) if self.readout is None else self.readout.push(state, held)
        slope = self.cost_function.slope(scores, nudge.y)
        slope = slope * one_for_each(nudge.beta, slope)
        return slope.view_as(state) if self.readout is None else self.readout.pull(slope, memory or [], held)

    def _forward(self, x: Tensor) -> States:
        """The states of a pass bottom up."""
        states, held = [], Held(measuring=True)
        for section in self.sections:
            x = section.squash(section.connection.push(x, held)[0])
            states.append(x)
        return states

    def connections(self) -> list[Connection]:
        """All, the readout's last."""
        own = [section.connection for section in self.sections]
        return own if self.readout is None else [*own, self.readout]

    # -- the gradient ---------------------------------------------------------------------------------------------

    def _readout_gradients(self, inputs: Clamped, y: Tensor, contrast: Contrast, twice: Clamped) -> Gradients:
        """Of the readout's weights, which stand in L: b1 L(s^b1) - b0 L(s^b0), over b1 - b0."""
        if self.readout is None:
            return []
        ends = [(contrast.high[-1], contrast.beta_high), (contrast.low[-1], -contrast.beta_low)]
        ends = [(state, weight) for state, weight in ends if weight]
        state = torch.cat([state for state, _ in ends])
        held = twice.held if len(ends) == 2 else inputs.held
        slope = self.cost_function.slope(self.readout.push(state, held)[0], torch.cat([y] * len(ends)))
        slope = torch.cat([part * weight for part, (_, weight) in zip(slope.chunk(len(ends)), ends, strict=True)])
        return self.readout.gradients(state, slope, held)


class ConvergentNetwork(LayeredNetwork, PrimitiveNetwork):
    r"""A network of layers that settles, with symmetric connections (Laborieux et al., arXiv 2006.03824, Section 2).

        Phi(x, s) = sum_n <s_n, f_n(s_{n-1})>,     s_0 = x
        s_n <- sigma_n( f_n(s_{n-1}) + (df_{n+1}/ds_n)^T s_{n+1} - beta dL/ds_n )

    Activations cut the list of layers into sections: f_n is what stands between two of them (linear layer,
    convolution, pooling, flatten, batch norm, dropout), sigma_n the activation behind it, s_n the state after it. With
    the softmax readout the layers behind the last activation are no state: L = CE(f(s_last), y). With the squared
    readout the output is a state like the others, L = |s_last - y|^2 / 2.

    The step is written by hand: no graph is made, f_1(x) is computed once, f_n(s) once for each s. In a chain of layers
    the states of even and of odd number do not hear of their own kind. In even-odd order k steps of the free phase, for
    the cost of k, leave the states that move second exactly where 2k synchronous steps leave them, and those that move
    first where 2k - 1 do (up to the switches of max-pooling). Under a nudge the last state hears itself through L: then
    orders agree where the states have settled.

    Dropout draws one mask for all phases of a step. Batch norm takes the batch's statistics in the free phase; nudged
    phases hold them, and the gradient takes them for constants. `BackpropThroughSettling` differentiates them.

    Args:
        layers: `nn.Sequential`, also nested, or a list; it is used as it is and not changed.
        example: One input batch, run once without a trace.
        readout: `"softmax"` or `"squared"`.
        order: Which states move at once: all (`"synchronous"`), every other (`"even-odd"`), or one after the other
            (`"sequential"`), upwards in the free phase and downwards when nudged.

    Raises:
        UnsupportedNetworkError: A layer is neither an activation nor one of those; the message names it.

    >>> network = ConvergentNetwork([nn.Linear(4, 8), nn.Hardtanh(0, 1), nn.Linear(8, 3)], torch.zeros(1, 4))
    >>> states = network.relax(network.prepare(torch.ones(2, 4)), None, steps=5)
    >>> [state.shape for state in states]
    [torch.Size([2, 8])]
    """

    def primitive(self, inputs: Clamped, states: States) -> Tensor:
        """Phi of each sample."""
        drives = [inputs.x, *states[:-1]]
        terms = [
            dot(section.connection.push(below, inputs.held)[0], state)
            for section, below, state in zip(self.sections, drives, states, strict=True)
        ]
        return torch.stack(terms).sum(0)

    def squash(self, drives: States) -> States:
        """Apply each section's activation."""
        return [section.squash(drive) for section, drive in zip(self.sections, drives, strict=True)]

    def gradients(self, inputs: Clamped, y: Tensor, contrast: Contrast) -> dict[nn.Parameter, Tensor]:
        """Differentiate Phi^b at both ends with respect to the parameters, by hand."""
        twice = self.repeat(inputs, 2)
        high, low = contrast.high, contrast.low
        found = self._readout_gradients(inputs, y, contrast, twice)
        found += [
            (parameter, -gradient)
            for number, section in enumerate(self.sections)
            for parameter, gradient in (
                section.connection.gradients(inputs.x, high[0] - low[0], inputs.held)
                if number == 0
                else section.connection.gradients(
                    torch.cat([high[number - 1], low[number - 1]]), torch.cat([high[number], -low[number]]), twice.held
                )
            )
        ]
        return averaged(found, len(inputs.x) * (contrast.beta_high - contrast.beta_low))


def channels_last(x: Tensor) -> Tensor:
    """Images with their channels side by side; all states take the order of the first drive.

    Pooling on a CPU then compares whole vectors of channels, in the place of single numbers of a window.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def grouped(count: int, order: Order, nudged: bool) -> list[list[int]]:
    """Which states move together, in turn: first those that hear of the input, or of the nudge.

    >>> grouped(4, "even-odd", nudged=False)
    [[0, 2], [1, 3]]
    >>> grouped(4, "even-odd", nudged=True)
    [[1, 3], [0, 2]]
    >>> grouped(3, "sequential", nudged=True)
    [[2], [1], [0]]
    """
    if order == "synchronous":
        return [list(range(count))]
    if order == "sequential":
        return [[number] for number in (reversed(range(count)) if nudged else range(count))]
    first = (count - 1) % 2 if nudged else 0
    return [group for group in (list(range(first, count, 2)), list(range(1 - first, count, 2))) if group]


def averaged(gradients: Gradients, scale: float) -> dict[nn.Parameter, Tensor]:
    """Sum what each parameter gets, over `scale`."""
    total: dict[nn.Parameter, Tensor] = {}
    for parameter, gradient in gradients:
        part = gradient.to(parameter.dtype) / scale
        total[parameter] = total[parameter] + part if parameter in total else part
    return total
