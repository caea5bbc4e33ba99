"""Feedback networks made from a network's own layers: from a unit's output back to its input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.rules.signals.chain import MAX_POOLS, Chain, Kept, dropped_again
from beyondprop.rules.signals.direct import ACTIVATIONS
from beyondprop.rules.signals.layers import NORMS, Kinds, computes_as
from beyondprop.rules.signals.units import Unit, find_units
from beyondprop.sequential import out_of_place

CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.ConvTranspose1d,
    nn.Conv2d: nn.ConvTranspose2d,
    nn.Conv3d: nn.ConvTranspose3d,
}
MEAN_POOLS: Kinds = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
RESHAPING: Kinds = (nn.Flatten, nn.Unflatten)
KEEPING_RANGE: Kinds = (*MAX_POOLS, *MEAN_POOLS, *RESHAPING, nn.Identity, _DropoutNd)

Activations = Literal["outside", "inside"]


class Mirror(nn.Module):
    """The feedback network g_i of one unit, from h_i back to h_{i-1}, with weights of its own.

    The unit's parts are mirrored last to first: a linear layer by a linear one the other way, a convolution by a
    transposed one of the same geometry, max-pooling by putting each number where the batch's maximum was, mean-pooling
    by spreading each number over its window, flattening by undoing it. Where windows overlap, what they put is added.
    What dropout dropped stays dropped, by its own factors. Norms have no part in it.

    Args:
        chain: The network's.
        index: Of the unit, from 1: the first one needs no feedback.
        activations: `"outside"`: the activation that closes the unit below comes last, g(y) = s(Q y + d), so that what
            g gives lies where h_{i-1} can. `"inside"`: the unit's own activations stay in their places among the parts,
            and nothing follows.

    Attributes:
        layer: The one with weights; Xavier-normal, its bias 0.

    Raises:
        UnsupportedNetworkError: A part of the unit has no mirror; the message names the layer.
    """

    def __init__(self, chain: Chain, index: int, activations: Activations = "outside") -> None:
        super().__init__()
        unit = chain.units[index]
        if reason := _objection(unit):
            raise UnsupportedNetworkError(reason)
        self.layer = _transposed(unit.layer)
        below = closing_activation(chain.units[index - 1])
        self.activation = copy.deepcopy(below) if activations == "outside" else nn.Identity()
        inside = ACTIVATIONS if activations == "inside" else ()
        # In tuples, so that the network's modules are not registered a second time.
        self._parts = tuple((_kind(part, inside), part) for part in unit.parts)

    def forward(self, y: Tensor, kept: Sequence[Kept]) -> Tensor:
        """Bring h_i, or what takes its place, back.

        Args:
            y: Shape (batch, ...) of the unit's output, or several batches after one another.
            kept: What the unit's parts keep of the evaluation of the batch: `Evaluation.kept[index]`.

        Returns:
            What takes the place of h_{i-1}, of the shape of the unit's input.
        """
        for (kind, part), (shape, value) in zip(reversed(self._parts), reversed(kept), strict=True):
            match kind:
                case "linear":
                    y = self.layer(y)
                case "convolution":
                    y = self.layer(y, output_size=list(shape[2:]))
                case "shape":
                    y = y.reshape(len(y), *shape[1:])
                case "maximum":
                    y = _put_back(y, value, shape)
                case "mean":
                    y = _spread(part, y, shape)
                case "dropout" if value is not None:
                    y = dropped_again(y, value)
                case "activation":
                    y = out_of_place(part, y)
        back: Tensor = self.activation(y)
        return back


def _kind(part: nn.Module, activations: Kinds) -> str:
    """How a part is mirrored; norms and activations that stay outside are left out."""
    kinds: dict[str, Kinds] = {
        "linear": (nn.Linear,),
        "convolution": tuple(CONVOLUTIONS),
        "shape": RESHAPING,
        "maximum": tuple(MAX_POOLS),
        "mean": MEAN_POOLS,
        "dropout": (_DropoutNd,),
        "activation": activations,
    }
    return next((name for name, known in kinds.items() if isinstance(part, known)), "none")


def mirrors(chain: Chain, activations: Activations = "outside") -> nn.ModuleList:
    """Make the feedback networks of all units but the first, in the units' order."""
    return nn.ModuleList(Mirror(chain, index, activations) for index in range(1, len(chain.units)))


def mirror_objection(network: nn.Module) -> str | None:
    """Tell which unit's feedback network cannot be made, or None."""
    try:
        units = find_units(network)
    except UnsupportedNetworkError as error:
        return str(error)
    return next((reason for unit in units[1:] if (reason := _objection(unit))), None)


def _objection(unit: Unit) -> str | None:
    known: Kinds = (*NORMS, *ACTIVATIONS, *KEEPING_RANGE)
    layer = unit.layer
    if not computes_as(layer, (nn.Linear, *CONVOLUTIONS)):
        return (
            f"layer {unit.name} ({type(layer).__name__}) has no mirror to bring targets back by: only linear layers "
            "and convolutions have; direct feedback (ddtp) needs none"
        )
    if isinstance(getattr(layer, "padding", 0), str):
        return f"layer {unit.name} has padding={layer.padding!r}, which has no mirror: give it as numbers"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return (
            f"layer {unit.name} has padding_mode={layer.padding_mode!r}, which has no mirror: take zeros; direct "
            "feedback (ddtp) needs none"
        )
    other = next((part for part in unit.parts if part is not layer and not isinstance(part, known)), None)
    if other is not None:
        return (
            f"{type(other).__name__} behind layer {unit.name} has no mirror to bring targets back by; direct feedback "
            "(ddtp) needs none"
        )
    return None


def _transposed(layer: Any) -> nn.Module:
    """Make a layer from the output's shape to the input's."""
    place = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    if isinstance(layer, nn.Linear):
        made: Any = nn.Linear(layer.out_features, layer.in_features, **place)
    else:
        kind: Callable[..., nn.Module] = next(back for conv, back in CONVOLUTIONS.items() if isinstance(layer, conv))
        made = kind(
            layer.out_channels,
            layer.in_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            dilation=layer.dilation,
            **place,
        )
    nn.init.xavier_normal_(made.weight)
    nn.init.zeros_(made.bias)
    mirror: nn.Module = made
    return mirror


def closing_activation(unit: Unit) -> nn.Module:
    """The activation that gives a unit its range, or an identity where something else, such as a norm, does."""
    for part in reversed(unit.parts):
        if isinstance(part, ACTIVATIONS):
            return part
        if not isinstance(part, KEEPING_RANGE):
            break
    return nn.Identity()


def _put_back(y: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
    """Put pooled numbers where the maxima of a batch were, for one batch or several; windows may share theirs."""
    times = len(y) // len(indices)
    places = indices.repeat(times, *[1] * (indices.ndim - 1)).flatten(2)
    return y.new_zeros(len(y), *shape[1:]).flatten(2).scatter_add(2, places, y.flatten(2)).unflatten(2, shape[2:])


def _spread(pool: nn.Module, y: Tensor, shape: torch.Size) -> Tensor:
    """The adjoint of mean-pooling, times the numbers that it has made one of: a number keeps its size."""
    with torch.enable_grad():
        below = y.new_zeros(len(y), *shape[1:], requires_grad=True)
        (back,) = torch.autograd.grad(pool(below), below, y, create_graph=y.requires_grad)
    found: Tensor = back * (below[0].numel() / y[0].numel())
    return found
