"""Recurrent networks: a classifier that reads an image row by row, and networks over sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.layers.decorrelation import Decorrelation


class RowReader(nn.Module):
    """A plain recurrent network over the rows of an image, written as a loop.

        s_t = tanh(W x_t + U s_{t-1} + b),    scores = Σ_t V_t s_t + c

    Args:
        image: Channels, height and width; row t of all channels is x_t.
        classes: Scores a sample.
        hidden: Length of the state.
    """

    def __init__(self, image: tuple[int, int, int], classes: int, *, hidden: int = 256) -> None:
        super().__init__()
        channels, height, width = image
        self.read = nn.Linear(channels * width, hidden)
        self.remember = nn.Linear(hidden, hidden, bias=False)
        self.activation = nn.Tanh()
        self.output = nn.Linear(height * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, shape (batch, classes), for images of shape (batch, channels, height, width)."""
        state, states = x.new_zeros(len(x), self.read.out_features), []
        for row in x.unbind(dim=2):
            state = self.activation(self.read(row.flatten(1)) + self.remember(state))
            states.append(state)
        return self.output(torch.cat(states, dim=1))


class StateLinear(nn.Module):
    """A linear layer of an input and a state, h = W_in u + W_rec s + b.

    W_in starts with Xavier's normal weights and W_rec orthogonal, square by square, so that a state is kept for long.

    Args:
        inputs: Length of u.
        hidden: Length of s.
        outputs: Length of h, a multiple of `hidden`.
        bias: Whether there is a b, which starts at zero.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(outputs, inputs))
        self.state_weight = nn.Parameter(torch.empty(outputs, hidden))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.xavier_normal_(self.input_weight)
        with torch.no_grad():
            for square in self.state_weight.split(hidden):
                nn.init.orthogonal_(square)

    def forward(self, u: Tensor, state: Tensor) -> Tensor:
        """Return h, shape (batch, outputs)."""
        return F.linear(state, self.state_weight) + F.linear(u, self.input_weight, self.bias)

    def ahead(self, u: Tensor, moves: Tensor) -> Tensor:
        """Return all of h that waits for no state, with what moves it, for every step.

        Args:
            u: Shape (time, batch, inputs).
            moves: Shape (time, rollouts, batch, outputs).

        Returns:
            W_in u + b + moves, shape (time, rollouts * batch, outputs).
        """
        return (F.linear(u, self.input_weight, self.bias).unsqueeze(1) + moves).flatten(1, 2)


class Moved(NamedTuple):
    """All steps of a layer whose outputs were moved, each of shape (time, rollouts * batch, units).

    Attributes:
        layer: Called with a step's inputs and a state.
        states: With which it was called.
        outputs: What came out, moved.
    """

    layer: nn.Module
    states: Tensor
    outputs: Tensor


class Recurrent(nn.Module):
    """A recurrent network over sequences, one step at a time, with a linear readout of every state.

        s_t = advance(u_t, s_{t-1}),    y_t = W_out s_t

    A state acts on later steps through the next state alone, and the readout on its own step alone: rules that assign
    credit in time rely on both. Subclasses write `advance`.

    Args:
        inputs: Length of u_t.
        hidden: Length of s_t.
        outputs: Length of y_t.
        decorrelate: Whether a decorrelating matrix, first the identity, stands behind the state.
        bias: Whether the readout has one (and what subclasses have).
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, decorrelate: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.decorrelate: nn.Module = Decorrelation(hidden) if decorrelate else nn.Identity()
        self.readout = nn.Linear(hidden, outputs, bias=bias)
        with torch.no_grad():
            nn.init.xavier_normal_(self.readout.weight)
            if bias:
                self.readout.bias.zero_()

    def advance(self, u: Tensor, state: Tensor) -> Tensor:
        """Compute the next state.

        Args:
            u: Inputs of one step, shape (batch, inputs).
            state: Shape (batch, hidden).
        """
        raise NotImplementedError

    def advance_moved(self, u: Tensor, moves: Sequence[Tensor], states: Tensor) -> list[Moved]:
        """Advance several rollouts through all steps, the outputs of their layers being moved.

        It is `advance` written for speed, without a graph: each weight is multiplied with the rows of all rollouts, and
        what waits for no state is computed for all steps at once. Rules use it where it stands in the class that
        `advance` stands in.

        Args:
            u: Inputs, the same for all rollouts, shape (time, batch, inputs).
            moves: By how much the outputs of each layer move, in the order of a step's calls, each of shape
                (time, rollouts, batch, units).
            states: Shape (time + 1, rollouts * batch, hidden); the first are given, the others written.

        Returns:
            One for each layer.
        """
        raise NotImplementedError

    def run(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over steps.

        Args:
            x: Inputs, shape (batch, time, inputs).
            state: That before the first step; zeros where there is none.

        Returns:
            The outputs, shape (batch, time, outputs), and the state after the last step.
        """
        state, outputs = x.new_zeros(len(x), self.hidden) if state is None else state, []
        for u in x.unbind(dim=1):
            state = self.advance(u, state)
            outputs.append(self.readout(state))
        return torch.stack(outputs, dim=1), state

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all steps, shape (batch, time, outputs), for x of shape (batch, time, inputs)."""
        return self.run(x)[0]

    def _walk(self, states: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each step yield the state before it, and where to write the next one, which is then decorrelated."""
        before, *later = states.unbind()
        matrix = self.decorrelate.weight.T if isinstance(self.decorrelate, Decorrelation) else None
        plain = torch.empty_like(before)
        for after in later:
            yield before, after if matrix is None else plain
            if matrix is not None:
                torch.mm(plain, matrix, out=after)
            before = after


class VanillaRNN(Recurrent):
    """The network of arXiv 2405.08967: tanh units whose decorrelated state feeds back and is read out.

        h_t = W_in u_t + W_rec s_{t-1},    s_t = D tanh(h_t)

    Args:
        inputs, hidden, outputs, decorrelate, bias: As of `Recurrent`.

    >>> VanillaRNN(3, 8, 2)(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, decorrelate: bool = False, bias: bool = False
    ) -> None:
        super().__init__(inputs, hidden, outputs, decorrelate=decorrelate, bias=bias)
        self.cell = StateLinear(inputs, hidden, hidden, bias=bias)

    def advance(self, u: Tensor, state: Tensor) -> Tensor:
        """See `Recurrent`."""
        return self.decorrelate(torch.tanh(self.cell(u, state)))

    def advance_moved(self, u: Tensor, moves: Sequence[Tensor], states: Tensor) -> list[Moved]:
        """See `Recurrent`."""
        h, W_rec = self.cell.ahead(u, moves[0]), self.cell.state_weight.T
        for h_t, (state, after) in zip(h.unbind(), self._walk(states), strict=True):
            torch.tanh(h_t.addmm_(state, W_rec), out=after)
        return [Moved(self.cell, states[:-1], h)]


class GatedRNN(Recurrent):
    """A gated recurrent unit (Cho et al., arXiv 1406.1078) with the readout and the decorrelation of `VanillaRNN`.

        r_t, z_t = σ(W_g [u_t, s_{t-1}]),    n_t = tanh(W_n [u_t, r_t s_{t-1}]),    s_t = D (n_t + z_t (s_{t-1} - n_t))

    Args:
        inputs, hidden, outputs, decorrelate, bias: As of `Recurrent`; the gates always have a bias.

    >>> GatedRNN(3, 8, 2)(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, decorrelate: bool = False, bias: bool = False
    ) -> None:
        super().__init__(inputs, hidden, outputs, decorrelate=decorrelate, bias=bias)
        self.gates = StateLinear(inputs, hidden, 2 * hidden, bias=True)
        self.candidate = StateLinear(inputs, hidden, hidden, bias=bias)

    def advance(self, u: Tensor, state: Tensor) -> Tensor:
        """See `Recurrent`."""
        reset, keep = torch.sigmoid(self.gates(u, state)).chunk(2, dim=-1)
        new = torch.tanh(self.candidate(u, reset * state))
        return self.decorrelate(new + keep * (state - new))

    def advance_moved(self, u: Tensor, moves: Sequence[Tensor], states: Tensor) -> list[Moved]:
        """See `Recurrent`."""
        gates, h = self.gates.ahead(u, moves[0]), self.candidate.ahead(u, moves[1])
        W_gates, W_rec, kept = self.gates.state_weight.T, self.candidate.state_weight.T, torch.empty_like(states[:-1])
        for gates_t, h_t, kept_t, (state, after) in zip(
            gates.unbind(), h.unbind(), kept.unbind(), self._walk(states), strict=True
        ):
            reset, keep = torch.sigmoid(gates_t.addmm_(state, W_gates)).chunk(2, dim=-1)
            torch.mul(reset, state, out=kept_t)
            torch.lerp(torch.tanh(h_t.addmm_(kept_t, W_rec)), state, keep, out=after)
        return [Moved(self.gates, states[:-1], gates), Moved(self.candidate, kept, h)]
