"""Networks with everything that teaching signals have to pass, small."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Doubled(nn.Module):
    """A layer written by a user: neither linear in its weights nor in its input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(features))

    def forward(self, x: Tensor, power: int = 2) -> Tensor:
        return torch.sin(self.scale * x) ** power


class Residual(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, features)
        self.norm = nn.BatchNorm1d(features)
        self.second = nn.Linear(features, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(torch.relu_(self.norm(self.first(x)))))


class Branching(nn.Module):
    """Two branches of one input, joined; the second output of one of them is used later."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.tanh(self.left(x)), torch.sigmoid(self.right(x))], dim=1))


class Shared(nn.Module):
    """One layer three times, as a recurrent network has it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.cell, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.into(x))
        for _ in range(3):
            h = torch.tanh(self.cell(h))
        return self.head(h)


class Recurrent(nn.Module):
    """A cell over the time steps of (batch, T, features), and a classifier of its last state."""

    def __init__(self, cell: type[nn.Module] = nn.RNNCell, features: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.cell, self.head = cell(features, hidden), nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(dim=1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Encoder(nn.Module):
    """A small transformer encoder with an embedding, a position table and torch's own attention layers."""

    def __init__(self, words: int = 7, width: int = 8, norm_first: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(1, 4, width))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first)
                for _ in range(2)
            )
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.words(x) + self.position).mean(dim=1))


class OwnAttention(nn.Module):
    """Attention from linear layers; query, key and value share an input."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        h = F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h))
        return self.head((x + self.out(h)).mean(dim=1))


def convolutional() -> nn.Sequential:
    """Convolutions with stride, padding, dilation, groups and other borders, and norms and activations in place."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        nn.PReLU(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
        nn.GroupNorm(2, 4),
        nn.ELU(inplace=True),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


NETWORKS = {
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(True), nn.Linear(5, 3)),
        4,
    ),
    "convolutional": (convolutional, (2, 8, 8)),
    "residual": (lambda: nn.Sequential(nn.Linear(4, 6), Residual(6), Residual(6), nn.Linear(6, 3)), 4),
    "branching": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(True), Branching()), 4),
    "shared": (Shared, 4),
    "own layer": (lambda: nn.Sequential(nn.Linear(4, 6), Doubled(6), nn.Linear(6, 3)), 4),
    "rnn": (Recurrent, (4, 3)),
    "gru": (lambda: Recurrent(nn.GRUCell), (4, 3)),
    "lstm": (lambda: Recurrent(nn.LSTMCell), (4, 3)),
    "own attention": (OwnAttention, (4, 6)),
    "encoder": (Encoder, "words"),
    "encoder, norm first": (lambda: Encoder(norm_first=True), "words"),
}


def make(name: str, batch: int = 5, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """Make a network and a batch for it, in double precision where that is a matter of choice."""
    torch.manual_seed(seed)
    build, shape = NETWORKS[name]
    network = build()
    if shape == "words":
        x = torch.randint(7, (batch, 4))
    else:
        x = torch.randn(batch, *((shape,) if isinstance(shape, int) else shape))
    if name == "convolutional":
        network(x)  # so that the lazy layer has its shape
        network[1].reset_running_stats()
    return network, x, torch.randint(3, (batch,))


def gradients(network: nn.Module) -> dict[str, Tensor | None]:
    """All gradients by name."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def back_propagated(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor | None]:
    """What autograd gives; the network's gradients and buffers stay as they were."""
    buffers = {name: value.clone() for name, value in network.state_dict().items()}
    network.zero_grad()
    F.cross_entropy(network(x), y).backward()
    found = gradients(network)
    network.zero_grad()
    network.load_state_dict(buffers)
    return found


def error_of(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The derivative of the mean cross-entropy with respect to the scores."""
    scores = network(x).detach()
    return (torch.softmax(scores, dim=1) - F.one_hot(y, 3)) / len(x)
