"""Recurrent layers of torch's own with a linear readout: over sequences, over pieces of images, over characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cell = Literal["tanh", "relu", "gru"]


def recurrent(inputs: int, hidden: int, *, cell: Cell = "tanh", layers: int = 1, **where: Any) -> nn.RNN | nn.GRU:
    """Make nn.RNN or nn.GRU, batch first, with (semi-)orthogonal weights, gate by gate, and biases of zero.

    Args:
        inputs: Length of x_t.
        hidden: Length of h_t.
        cell: tanh or ReLU units, or gated ones.
        layers: In the stack.
        **where: Device and dtype.
    """
    module: nn.RNN | nn.GRU
    if cell == "gru":
        module = nn.GRU(inputs, hidden, layers, batch_first=True, **where)
    else:
        module = nn.RNN(inputs, hidden, layers, nonlinearity=cell, batch_first=True, **where)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
            else:
                for gate in parameter.split(hidden):
                    nn.init.orthogonal_(gate)
    return module


class SequenceReader(nn.Module):
    """A recurrent layer over sequences with a linear readout of the last state, or of every state.

        h_t = tanh(W h_{t-1} + U x_t + b),    y = V h_T + c   or   y_t = V h_t + c

    Args:
        inputs: Length of x_t.
        outputs: Length of y.
        hidden, cell, layers: As of `recurrent`.
        every_step: Whether each state is read.

    >>> SequenceReader(3, 2, hidden=8)(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 100,
        cell: Cell = "tanh",
        layers: int = 1,
        every_step: bool = False,
    ) -> None:
        super().__init__()
        self.rnn = recurrent(inputs, hidden, cell=cell, layers=layers)
        self.readout = nn.Linear(hidden, outputs)
        self.every_step = every_step
        with torch.no_grad():
            nn.init.orthogonal_(self.readout.weight)
            self.readout.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (batch, outputs) or (batch, time, outputs), for x of shape (batch, time, inputs)."""
        states, last = self.rnn(x)
        return self.readout(states if self.every_step else last[-1])


class ImageReader(SequenceReader):
    """A recurrent layer that reads an image piece by piece: by rows, by pixels, or by pixels in a fixed random order.

    Args:
        image: Channels, height and width.
        classes: Scores a sample.
        piece: Numbers in a piece; the image's width for rows, 1 for pixels.
        permuted: Whether the image's numbers stand in a random order, drawn once.
        restored: Mean and deviation that were taken off and divided by before, by channel, and are put back here:
            saturated units have steep inverses, and numbers in 0..1 saturate fewer.
        hidden, cell, layers: As of `recurrent`.

    >>> ImageReader((1, 8, 8), 10, piece=8, hidden=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    order: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        image: tuple[int, int, int],
        classes: int,
        *,
        piece: int,
        permuted: bool = False,
        restored: tuple[Tensor, Tensor] | None = None,
        hidden: int = 100,
        cell: Cell = "tanh",
        layers: int = 1,
    ) -> None:
        super().__init__(piece, classes, hidden=hidden, cell=cell, layers=layers)
        count = math.prod(image)
        self.piece = piece
        self.register_buffer("order", torch.randperm(count) if permuted else torch.arange(count))
        self.permuted = permuted
        mean, deviation = restored or (torch.zeros(image[0]), torch.ones(image[0]))
        self.register_buffer("mean", mean.float().view(-1, 1, 1))
        self.register_buffer("deviation", deviation.float().view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, shape (batch, classes), for images of shape (batch, channels, height, width)."""
        numbers = torch.addcmul(self.mean, x, self.deviation).flatten(1)
        if self.permuted:
            numbers = numbers[:, self.order]
        return super().forward(numbers.unflatten(1, (-1, self.piece)))


class CharacterModel(SequenceReader):
    """A recurrent layer over one-hot characters that scores the next one at every step.

    Args:
        characters: In the alphabet.
        hidden, cell, layers: As of `recurrent`.

    >>> CharacterModel(30, hidden=16)(torch.zeros(5, 7)).shape
    torch.Size([5, 7, 30])
    """

    def __init__(self, characters: int, *, hidden: int = 100, cell: Cell = "tanh", layers: int = 1) -> None:
        super().__init__(characters, characters, hidden=hidden, cell=cell, layers=layers, every_step=True)
        self.characters = characters

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, shape (batch, time, characters), for indices of shape (batch, time), of any number type."""
        return super().forward(F.one_hot(x.long(), self.characters).to(self.readout.weight.dtype))

    def sample(
        self, length: int, *, first: int | Sequence[int] = 0, generator: torch.Generator | None = None
    ) -> list[int]:
        """Draw characters one after another, each from the scores that follow those before it.

        Args:
            length: How many.
            first: Index of the one that is given, or of several, which the network reads and which are not returned.
            generator: Of the CPU.
        """
        weight = self.readout.weight
        given = torch.tensor([first if isinstance(first, Sequence) else [first]])
        drawn, state = list[int](), None
        with torch.no_grad():
            for _ in range(length):
                code = F.one_hot(given.to(weight.device), self.characters).to(weight.dtype)
                states, state = self.rnn(code, state)
                odds = torch.softmax(self.readout(states[0, -1]).float().cpu(), dim=0)
                given = torch.multinomial(odds, 1, generator=generator).unsqueeze(0)
                drawn.append(int(given))
        return drawn


def step_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over all steps, of scores (batch, time, classes) and class indices (batch, time)."""
    return F.cross_entropy(scores.flatten(0, 1), y.flatten())


class PieceReader(nn.Module):
    """A classifier as the readout of a recurrent layer, which reads the input piece by piece.

        h_t = tanh(W h_{t-1} + U x_t + b),    scores = classifier(V h_T + c)

    Args:
        classifier: Takes batches of `shape`.
        shape: Of one input.
        hidden: Length of h_t.
    """

    def __init__(self, classifier: nn.Module, shape: Sequence[int], *, hidden: int = 64) -> None:
        super().__init__()
        given = next(classifier.parameters(), None)
        where: dict[str, Any] = {} if given is None else {"device": given.device, "dtype": given.dtype}
        self.shape, self.numbers = tuple(shape), math.prod(shape)
        self.piece = math.isqrt(self.numbers - 1) + 1  # as long as there are pieces, or one longer
        self.rnn = recurrent(self.piece, hidden, **where)
        self.widen = nn.Linear(hidden, self.numbers, **where)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return the classifier's scores."""
        numbers = x.flatten(1)
        pieces = F.pad(numbers, (0, -self.numbers % self.piece)).unflatten(1, (-1, self.piece))
        last = self.rnn(pieces)[1][-1]
        return self.classifier(self.widen(last).unflatten(1, self.shape))
