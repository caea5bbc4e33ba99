"""A network as a chain of units, each evaluated by itself, and again beside the first evaluation.

A unit is one layer with weights and all that follows it until the next one: activation, pooling, norm, dropout,
flattening. With h_0 = x a network is h_i = f_i(h_{i-1}), i = 1..L. Each unit's graph begins at its input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.inputs import check_example, running_example
from beyondprop.rule import without_trace
from beyondprop.rules.signals.layers import edges_of
from beyondprop.rules.signals.units import Unit, find_units

MAX_POOLS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MaxPool1d: F.max_pool1d_with_indices,
    nn.MaxPool2d: F.max_pool2d_with_indices,
    nn.MaxPool3d: F.max_pool3d_with_indices,
}


class Kept(NamedTuple):
    """What one part of a unit keeps of an evaluation.

    Attributes:
        shape: Of its input.
        value: Dropout's factors, a batch norm's mean and variance, max-pooling's indices; None of all others.
    """

    shape: torch.Size
    value: Any


class Chain:
    """The units of a network that runs its children one after another.

    Args:
        network: An `nn.Sequential`, or a module whose `forward` calls child after child, each on what the one before
            gave, and nothing else; containers within it likewise.
        example: One input batch, run once without a trace.

    Attributes:
        units: In their order.
        shapes: Of each unit's output without the batch.
        kept: What each part of each unit keeps of the example, which tells the shapes.

    Raises:
        UnsupportedNetworkError: The network is no chain, or a unit's output is no tensor that begins with the batch.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        check_example(example, network)
        self.units = find_units(network)
        with running_example(example), without_trace(network):
            seen = self.run(example)
        self.kept = seen.kept
        self.shapes = [value.shape[1:] for value in seen.values]
        for unit, value in zip(self.units, seen.values, strict=True):
            if value.ndim < 2 or len(value) != len(example):
                raise UnsupportedNetworkError(
                    f"layer {unit.name} gives {tuple(value.shape)} for a batch of {len(example)}: the batch must come "
                    "first"
                )

    @staticmethod
    def objection(network: nn.Module) -> str | None:
        """Tell why a network is no chain of units, or None."""
        try:
            find_units(network)
        except UnsupportedNetworkError as error:
            return str(error)
        return None

    def run(self, x: Tensor, *, training: bool = True) -> Evaluation:
        """Evaluate the chain.

        Args:
            x: A batch.
            training: Whether the units are to learn from it: without it no graph is kept, and batch norms' running
                statistics stay.
        """
        return Evaluation(self.units, x, training)


class Evaluation:
    """One evaluation of a chain on a batch.

    Attributes:
        values: h_1..h_L, without a graph.
        kept: For each unit, what each of its parts keeps.
    """

    def __init__(self, units: tuple[Unit, ...], x: Tensor, training: bool) -> None:
        self.units = units
        self.values: list[Tensor] = []
        self.kept: list[list[Kept]] = []
        self._edges: list[GradientEdge | None] = []
        weight = next(parameter for unit in units for parameter in unit.layer.parameters())
        self._precision = weight.dtype
        with torch.set_grad_enabled(training and torch.is_grad_enabled()):
            for unit in units:
                kept: list[Kept] = []
                for part in unit.parts:
                    shape = x.shape
                    x, value = _evaluate(part, x, training)
                    if not isinstance(x, Tensor):
                        raise UnsupportedNetworkError(
                            f"layer {unit.name} gives no tensor but {type(x).__name__}: this rule needs one"
                        )
                    kept.append(Kept(shape, value))
                self._edges.append(edges_of([x])[0] if x.requires_grad else None)
                x = x.detach()
                self.values.append(x)
                self.kept.append(kept)

    def __len__(self) -> int:
        return len(self.units)

    @property
    def batch(self) -> int:
        """How many samples were evaluated."""
        return len(self.values[0])

    def value(self, index: int) -> Tensor:
        """The output of a unit, counted from 0, in the weights' own precision whatever autocast has made of it."""
        return self.values[index].detach().to(self._precision)

    def teach(self, signals: Sequence[Tensor], last: Tensor) -> None:
        """Call each unit's own vector-Jacobian product, and free all graphs.

        Args:
            signals: For each hidden unit what stands in the place of dL/dh_i, of its output's shape.
            last: dL/dh_L.
        """
        taught = [
            (edge, signal.to(value.dtype))
            for edge, signal, value in zip(self._edges, [*signals, last], self.values, strict=True)
            if edge is not None  # frozen
        ]
        self._edges = [None] * len(self._edges)
        if taught:
            edges, given = zip(*taught, strict=True)
            torch.autograd.backward(edges, given)

    def again(self, index: int, h: Tensor) -> Tensor:
        """Evaluate one unit on another input: dropout drops what it dropped, batch norm has the batch's statistics.

        Args:
            index: Of the unit, from 0.
            h: What takes the place of its input, once or several times the batch. It may carry a graph.

        Returns:
            f_i(h).
        """
        for part, kept in zip(self.units[index].parts, self.kept[index], strict=True):
            h = _evaluate_again(part, h, kept)
        return h

    def onwards(self, starts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Compute the outputs that follow from other values of units, all in one batch that grows from unit to unit.

        Args:
            starts: By a unit's index, what takes the place of its output; each as long as the batch.

        Returns:
            h_L for each of them, by the same index.
        """
        first = min(starts)
        h, found = starts[first], [first]
        for index in range(first + 1, len(self.units)):
            h = self.again(index, h)
            if index in starts:
                h = torch.cat([h, starts[index]])
                found.append(index)
        return dict(zip(found, h.split(self.batch), strict=True))


def _evaluate(part: nn.Module, h: Tensor, training: bool) -> tuple[Any, Any]:
    """Evaluate one part of a unit.

    Returns:
        Its output, and what is to be kept.
    """
    if isinstance(part, _DropoutNd) and part.training:
        factors = part(torch.ones_like(h))
        return h * factors, factors
    kind: Any = type(part)  # mypy takes a class with settable attributes for unhashable
    if pool := _max_pool(kind):
        found = pool(h, part.kernel_size, part.stride, part.padding, part.dilation, part.ceil_mode)
        return found[0], found[1]
    if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
        with torch.no_grad():
            statistics = torch.var_mean(h.float() if h.dtype == torch.bfloat16 else h, _all_but(h), correction=0)
        if training:
            return part(h), statistics
        return _evaluate_again(part, h, Kept(h.shape, statistics)), statistics
    if isinstance(part, _InstanceNorm) and not training:
        return _evaluate_again(part, h, Kept(h.shape, None)), None
    return part(h), None


@cache
def _max_pool(kind: type[nn.Module]) -> Callable[..., Any] | None:
    """The function that tells where the maxima were, of a module class that has kept its `forward`."""
    known = ((pool, found) for pool, found in MAX_POOLS.items() if issubclass(kind, pool))
    return next((found for pool, found in known if kind.forward is pool.forward), None)


def _evaluate_again(part: nn.Module, h: Tensor, kept: Kept) -> Tensor:
    if isinstance(part, _DropoutNd) and kept.value is not None:
        return dropped_again(h, kept.value)
    if isinstance(part, _BatchNorm) and kept.value is not None:
        variance, mean = kept.value
        return F.batch_norm(h, mean, variance, part.weight, part.bias, eps=part.eps)
    if isinstance(part, _InstanceNorm) and part.training:
        return F.instance_norm(h, None, None, part.weight, part.bias, eps=part.eps)
    output: Tensor = part(h)
    return output


def dropped_again(h: Tensor, factors: Tensor) -> Tensor:
    """Multiply one batch, or several after one another, by the factors that dropout had for a batch."""
    return (h.unflatten(0, (-1, len(factors))) * factors).flatten(0, 1)


def _all_but(h: Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [dim for dim in range(h.ndim) if dim != 1]
