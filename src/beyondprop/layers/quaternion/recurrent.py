"""Recurrent layers of quaternions: QRNN and QLSTM (Parcollet et al., arXiv 1806.04418)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.layers.quaternion.algebra import check_quarters
from beyondprop.layers.quaternion.initialisation import quaternion_
from beyondprop.layers.quaternion.linear import QuaternionLinear, Sides, check_width
from beyondprop.layers.quaternion.real_product import lowered

State = tuple[Tensor, ...]


class _QuaternionRecurrent(nn.Module):
    """Layers over time, in the places and with the calls of torch's own.

    All inputs of a layer are multiplied at once, and its real recurrent matrix is built once for a sequence: a step
    costs one real product, and the gradient is folded to the quaternion weight once.
    """

    gates: ClassVar[int]
    states: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        side: Sides = "left",
    ) -> None:
        check_quarters(input_size=input_size, hidden_size=hidden_size)
        check_whole(1, num_layers=num_layers)
        check_number(dropout=dropout)
        if dropout >= 1:
            raise UserError(f"dropout must be at least 0 and below 1, not {dropout}")
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        ways, wide = 1 + bidirectional, self.gates * hidden_size
        sizes = [input_size, *[ways * hidden_size] * (num_layers - 1)]
        self.inputs = nn.ModuleList(
            QuaternionLinear(size, wide, bias, side=side) for size in sizes for _ in range(ways)
        )
        self.recurrent = nn.ModuleList(QuaternionLinear(hidden_size, wide, bias=False, side=side) for _ in self.inputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights by Glorot's criterion, gate by gate, and set biases to 0."""
        for module in (*self.inputs, *self.recurrent):
            assert isinstance(module, QuaternionLinear)
            module.reset_parameters()
            quaternion_(module.weight, module.in_features // 4, self.hidden_size // 4, "glorot")

    def advance(self, h: Tensor, state: State) -> State:
        """Compute the next state from all that acts on it, shape (batch, gates * hidden_size)."""
        raise NotImplementedError

    def run(self, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, State]:
        """Run all layers.

        Args:
            x: Inputs, shape (time, batch, input_size), or (batch, time, input_size) where `batch_first`.
            state: Tensors of shape (layers * ways, batch, hidden_size); zeros where there is none.

        Returns:
            The last layer's states of all steps, and the last states of all layers.

        Raises:
            UserError: A shape does not fit.
        """
        name = type(self).__name__
        if not isinstance(x, Tensor) or x.ndim != 3:
            raise UserError(f"{name} takes a tensor of three dimensions: time, batch and {self.input_size} numbers")
        check_width(x, -1, self.input_size, name)
        x = x.transpose(0, 1) if self.batch_first else x
        shape = (len(self.inputs), x.shape[1], self.hidden_size)
        if state is None:
            state = (x.new_zeros(shape),) * self.states
        elif any(part.shape != shape for part in state):
            raise UserError(f"{name} takes states of shape {shape}, got {[tuple(part.shape) for part in state]}")
        ways, last = 1 + self.bidirectional, []
        for layer in range(self.num_layers):
            outputs = []
            for way in range(ways):
                index = layer * ways + way
                seen = x.flip(0) if way else x
                states, final = self._walk(index, seen, tuple(part[index] for part in state))
                outputs.append(states.flip(0) if way else states)
                last.append(final)
            x = interleave(outputs)
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        found = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        return (x.transpose(0, 1) if self.batch_first else x), found

    def _walk(self, index: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        recurrent = self.recurrent[index]
        assert isinstance(recurrent, QuaternionLinear)
        matrix, states = lowered(recurrent.real_matrix()), []
        for h in self.inputs[index](x).unbind(0):
            state = self.advance(h + F.linear(state[0], matrix), state)
            states.append(state[0])
        return torch.stack(states) if states else x.new_zeros(0, x.shape[1], self.hidden_size), state

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def interleave(parts: list[Tensor]) -> Tensor:
    """Join quaternions of several tensors to more quaternions: block by block, in the last dimension."""
    if len(parts) == 1:
        return parts[0]
    blocks = [part.reshape(*part.shape[:-1], 4, part.shape[-1] // 4) for part in parts]
    return torch.cat(blocks, -1).flatten(-2)


class QRNN(_QuaternionRecurrent):
    """A recurrent layer of quaternions, in the place of `nn.RNN`.

        h_t = φ(W ⊗ x_t + R ⊗ h_{t-1} + b),    φ componentwise

    Args:
        input_size: Real numbers of an input, a multiple of four.
        hidden_size: Of a state.
        num_layers: One after another.
        bias: Whether there is one.
        batch_first: Whether inputs and outputs have the batch before time.
        dropout: Between layers.
        bidirectional: Whether a second layer reads backwards; their quaternions stand side by side in each block.
        nonlinearity: "tanh" or "relu".
        side: Where the weights stand, as of `QuaternionLinear`.

    Raises:
        UserError: A size is no multiple of four, an option is out of range; in a call, a shape does not fit.

    >>> outputs, last = QRNN(8, 12)(torch.zeros(5, 2, 8))
    >>> outputs.shape, last.shape
    (torch.Size([5, 2, 12]), torch.Size([1, 2, 12]))
    """

    gates, states = 1, 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        side: Sides = "left",
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise UserError(f"nonlinearity must be 'tanh' or 'relu', not {nonlinearity!r}")
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            side=side,
        )
        self.nonlinearity = nonlinearity

    def advance(self, h: Tensor, state: State) -> State:
        """See the formula."""
        del state
        return (torch.tanh(h) if self.nonlinearity == "tanh" else torch.relu(h),)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the states of all steps and the last states, as `nn.RNN` does; see `run` for the shapes."""
        outputs, (last,) = self.run(x, None if state is None else (state,))
        return outputs, last


class QLSTM(_QuaternionRecurrent):
    """A long short-term memory of quaternions, in the place of `nn.LSTM`.

        i, f, o = σ(W ⊗ x_t + R ⊗ h_{t-1} + b),    g = tanh(W_g ⊗ x_t + R_g ⊗ h_{t-1} + b_g)
        c_t = f × c_{t-1} + i × g,    h_t = o × tanh(c_t)

    σ, tanh and × act on each component by itself.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, side: As of `QRNN`.

    >>> outputs, (h, c) = QLSTM(8, 12, batch_first=True)(torch.zeros(2, 5, 8))
    >>> outputs.shape, c.shape
    (torch.Size([2, 5, 12]), torch.Size([1, 2, 12]))
    """

    gates, states = 4, 2

    def advance(self, h: Tensor, state: State) -> State:
        """See the formula."""
        gates = h.view(len(h), 4, self.gates, self.hidden_size // 4).transpose(1, 2).flatten(2)
        i, f, g, o = gates.unbind(1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the states of all steps and the last states h and c, as `nn.LSTM` does; see `run` for the shapes."""
        outputs, (h, c) = self.run(x, state)
        return outputs, (h, c)
