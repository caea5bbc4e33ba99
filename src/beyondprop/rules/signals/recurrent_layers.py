"""Torch's recurrent layers as rules of targets see them: weights, states, and what a small change of each does."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError

Recurrent = nn.RNN | nn.GRU


class Weights(NamedTuple):
    """Parameters of one layer of a recurrent module; the biases are None where it has none.

    Attributes:
        of_input: U, shape (gates * hidden, inputs).
        of_state: W, shape (gates * hidden, hidden).
        input_bias, state_bias: Shape (gates * hidden,).
    """

    of_input: Tensor
    of_state: Tensor
    input_bias: Tensor | None
    state_bias: Tensor | None

    @property
    def bias(self) -> Tensor | None:
        """Both biases together, as a layer without gates has them."""
        return None if self.input_bias is None or self.state_bias is None else self.input_bias + self.state_bias


class Layer(NamedTuple):
    """One layer's run over a batch, time first.

    Attributes:
        kind: `"tanh"`, `"relu"` or `"gru"`.
        weights: Of the layer.
        inputs: Shape (time, batch, inputs).
        states: h_1 to h_T, shape (time, batch, hidden).
        before: h_0, shape (batch, hidden).
    """

    kind: str
    weights: Weights
    inputs: Tensor
    states: Tensor
    before: Tensor

    @property
    def earlier(self) -> Tensor:
        """h_0 to h_{T-1}, shape (time, batch, hidden)."""
        return torch.cat([self.before.unsqueeze(0), self.states[:-1]])


class Linearised(NamedTuple):
    """How a change of what enters a step's gates changes its state, and how the inverse goes back.

    Attributes:
        of_state: dh_t over what W h_{t-1} gives, shape (time, batch, gates, hidden).
        of_input: dh_t over what U x_t gives, likewise.
        back_to_state: By what the inverse multiplies a displacement of h_t before it goes through that of W.
        back_to_input: Likewise through that of U.
        keep: The share of h_{t-1} that goes into h_t past the weights, shape (time, batch, hidden); None for none.
    """

    of_state: Tensor
    of_input: Tensor
    back_to_state: Tensor
    back_to_input: Tensor
    keep: Tensor | None


def unsupported(network: nn.Module) -> str | None:
    """Tell why a network is not one recurrent layer (or stack of layers) with anything around it; None if it is."""
    found = [(name or "network", module) for name, module in network.named_modules() if isinstance(module, nn.RNNBase)]
    for name, module in found:
        what = f"layer {name} ({type(module).__name__})"
        if not isinstance(module, Recurrent):
            return f"{what} has no inverse here: take nn.RNN or nn.GRU"
        if module.bidirectional:
            return f"{what} runs in both directions: take bidirectional=False"
        if module.dropout and module.num_layers > 1:
            return f"{what} has dropout between its layers: put it into the readout, or take dropout=0"
    if not found:
        return f"{type(network).__name__} has no recurrent layer (nn.RNN or nn.GRU), so there is no time to go back in"
    if len(found) > 1:
        return f"layer {found[1][0]} is a second recurrent module: give one, with num_layers for a stack"
    return None


def recurrent_layer(network: nn.Module) -> tuple[str, Recurrent]:
    """Find the recurrent module of a network that `unsupported` has no objection to, and its name."""
    for name, module in network.named_modules():
        if isinstance(module, Recurrent):
            return name or "network", module
    raise UnsupportedNetworkError(unsupported(network) or "")


def kind_of(module: Recurrent) -> str:
    """`"tanh"`, `"relu"` or `"gru"`."""
    return "gru" if isinstance(module, nn.GRU) else str(module.nonlinearity)


def weights_of(module: Recurrent, layer: int) -> Weights:
    """Parameters of one layer of a stack, by the names that torch gives them."""
    found: dict[str, Any] = {
        name: getattr(module, f"{name}_l{layer}", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    return Weights(*found.values())


def run_layer(kind: str, weights: Weights, inputs: Tensor, before: Tensor) -> Tensor:
    """Run one layer by torch's own kernel; states, shape (time, batch, hidden)."""
    kernel = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu, "gru": torch.gru}[kind]
    given = [weight for weight in weights if weight is not None]
    states: Tensor = kernel(inputs, before.unsqueeze(0), given, len(given) > 2, 1, 0.0, False, False, False)[0]
    return states


def linearise(layer: Layer, clip: float) -> Linearised:
    """Linearise every step of a layer, all at once.

    A tanh unit has the slope 1 - h², and its inverse divides by it; ReLU units pass on what is active, both ways. Of a
    GRU, h_t = (1 - z) n + z h_{t-1} as torch has it, the inverse divides by the slopes of the two gates' sigmoids alone
    (the paper's choice); all other factors are those of the derivative.

    Args:
        layer: Its run.
        clip: Distance from the ends of their range to which states and gates are kept where a slope divides.
    """
    if layer.kind == "gru":
        return _linearised_gru(layer, clip)
    h = layer.states
    if layer.kind == "relu":
        slope = (h > 0).to(h.dtype).unsqueeze(2)
        return Linearised(slope, slope, slope, slope, None)
    slope = (1 - h * h).unsqueeze(2)
    steepness = slope.clamp(min=1 - (1 - clip) ** 2).reciprocal_()
    return Linearised(slope, slope, steepness, steepness, None)


def _linearised_gru(layer: Layer, clip: float) -> Linearised:
    weights, earlier = layer.weights, layer.earlier
    of_input = nn.functional.linear(layer.inputs, weights.of_input, weights.input_bias).chunk(3, dim=-1)
    of_state = nn.functional.linear(earlier, weights.of_state, weights.state_bias).chunk(3, dim=-1)
    r, z = (torch.sigmoid(i + s) for i, s in zip(of_input[:2], of_state[:2], strict=True))
    a = of_state[2]
    n = torch.tanh(of_input[2] + r * a)
    through_n, through_z = (1 - z) * (1 - n * n), earlier - n
    through_r = through_n * a
    r_slope, z_slope = r * (1 - r), z * (1 - z)
    least = clip * (1 - clip)
    back_r, back_z = through_r / r_slope.clamp(min=least), through_z / z_slope.clamp(min=least)
    forth_r, forth_z, reset_n = through_r * r_slope, through_z * z_slope, through_n * r
    return Linearised(
        torch.stack([forth_r, forth_z, reset_n], dim=2),
        torch.stack([forth_r, forth_z, through_n], dim=2),
        torch.stack([back_r, back_z, reset_n], dim=2),
        torch.stack([back_r, back_z, through_n], dim=2),
        z,
    )
