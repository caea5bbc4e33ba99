"""Graph-convolutional Hawkes processes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.point_processes.gaps import GapName, gap_distribution
from beyondprop.point_processes.graph import GraphConvolution, Kernel, adjacency, ages_of, normalised, windows_of
from beyondprop.point_processes.process import Likelihood, Outlook, PointProcess, of_mark, targets_of

Encoder = Literal["gcn", "lstm", "transformer", "gcn-lstm", "gcn-transformer"]


class GCHP(PointProcess):
    r"""Graph-convolutional Hawkes process (Li, Luo, Ke and Pan, arXiv 2107.03354).

    The last K events are a graph, whose edges are a temporal kernel of the time between two events. Two graph
    convolutions :math:`H = \mathrm{relu}(A X W + b)` over the one-hot marks X, and a linear readout of all nodes and of
    the last row of A, give the distribution of the gap and the marks' scores. The loss of an event is

    .. math:: \eta\, [-\log f(\tau)] + \theta\, [-\log p(\text{mark})] ,

    a likelihood ratio but for a constant; with `loss="squared"`, the first term is :math:`(\hat\tau - \tau)^2`.

    Args:
        classes: Number of marks, M.
        mean_gap: Of the training events, in the data's unit.
        longest_gap: Likewise.
        window: K.
        hidden: Width of the encoder's layers.
        layers: One or two.
        encoder: Graph convolutions; or, as the paper's ablations, an LSTM or a transformer over the marks, or graph
            convolutions below either.
        kernel: Of the graph's edges.
        bandwidth: Of the kernel, for times in mean gaps.
        normalisations: How often A becomes :math:`D^{-1/2} A D^{-1/2}`. The paper's code does it twice; 0 keeps how
            close events are to each other, which normalising takes away.
        times: Whether the nodes see the logarithm of the gap before them and of their age, and the readout the ages, in
            addition to the marks.
        gap: Distribution of the gap.
        shape: Of a family that has one; see `MomentMatched`.
        learned_shape: Whether it is learned.
        components: Of the mixture.
        loss: `"likelihood"`, or `"squared"`.
        eta: Weight of the gap.
        theta: Weight of the mark.
        dropout: After each layer.

    Raises:
        UserError: A number is out of range, or a name is unknown.

    >>> import torch
    >>> x, y = torch.tensor([[[0.0, 1.0], [0.5, 0.0]]]), torch.tensor([[[0.0, -2.0], [2.0, 1.0]]])
    >>> GCHP(2).likelihood(x, y).gap.shape  # one target
    torch.Size([1])
    """

    def __init__(
        self,
        classes: int,
        *,
        mean_gap: float = 1.0,
        longest_gap: float = 100.0,
        window: int = 3,
        hidden: int = 32,
        layers: int = 2,
        encoder: Encoder = "gcn",
        kernel: Kernel = "exponential",
        bandwidth: float = 2.0,
        normalisations: int = 1,
        times: bool = False,
        gap: GapName = "exponential",
        shape: float | None = None,
        learned_shape: bool = False,
        components: int = 8,
        loss: Literal["likelihood", "squared"] = "likelihood",
        eta: float = 1.0,
        theta: float = 1.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(classes, mean_gap, longest_gap)
        check_whole(1, window=window, hidden=hidden, components=components)
        check_whole(0, normalisations=normalisations)
        check_number(bandwidth=bandwidth, above=True)
        check_number(eta=eta, theta=theta, dropout=dropout)
        for name, value, known in (
            ("layers", layers, (1, 2)),
            ("encoder", encoder, get_args(Encoder)),
            ("kernel", kernel, get_args(Kernel)),
            ("gap", gap, get_args(GapName)),
            ("loss", loss, ("likelihood", "squared")),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(map(str, known))}, not {value!r}")
        self.window, self.times, self.normalisations = window, times, normalisations
        self.kernel, self.bandwidth, self.criterion = kernel, bandwidth, loss
        self.eta, self.theta = eta, theta
        inputs = classes + (2 if times else 0)
        self.graph = nn.ModuleList()
        if encoder.startswith("gcn"):
            self.graph.extend(GraphConvolution(inputs if n == 0 else hidden, hidden) for n in range(layers))
            inputs = hidden
        self.sequence = _sequence(encoder.removeprefix("gcn").removeprefix("-"), inputs, hidden, layers)
        self.dropout = nn.Dropout(dropout)
        self.gap = gap_distribution(gap, shape=shape, learned=learned_shape, components=components)
        read = (hidden + 1 + times) * window
        self.to_gap, self.to_marks = nn.Linear(read, self.gap.outputs), nn.Linear(read, classes)

    def read(self, x: Tensor, y: Tensor) -> Tensor:
        """What the heads read before each target, shape (targets, features)."""
        gaps, marks = windows_of(x, y, self.window).unbind(1)
        there = marks >= 0
        gaps = gaps / self.scale
        ages = ages_of(gaps)
        edges = adjacency(ages, there, self.kernel, self.bandwidth)
        for _ in range(self.normalisations):
            edges = normalised(edges)
        kinds = torch.arange(self.classes, device=x.device, dtype=x.dtype)
        features = (marks.unsqueeze(2) == kinds).to(x.dtype)
        last = [edges[:, -1]]
        if self.times:
            seen = torch.stack((torch.log(gaps + 1e-3), torch.log(ages + 1e-3)), 2) * there.unsqueeze(2)
            features = torch.cat((features, seen), 2)
            last.append(seen[..., 1])
        for layer in self.graph:
            features = self.dropout(layer(features, edges))
        if self.sequence is not None:
            features = self.dropout(self.sequence(features))
        return torch.cat((features.flatten(1), *last), 1)

    def likelihood(self, x: Tensor, y: Tensor) -> Likelihood:
        """As `EventModel.likelihood`; gap and mark are independent given what came before."""
        return self._likelihood(self.read(x, y), y)

    def outlook(self, x: Tensor, y: Tensor) -> Outlook:
        """As `EventModel.outlook`."""
        read = self.read(x, y)
        return Outlook(self.gap.mean(self.to_gap(read)) * self.scale, self.to_marks(read).log_softmax(1))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a target."""
        read = self.read(x, y)
        gap, mark = targets_of(y).unbind(1)
        seen = mark >= 0
        outputs = self.to_gap(read)
        if self.criterion == "squared":
            in_time = (self.gap.mean(outputs) - gap / self.scale).square() * seen
        else:
            in_time = -self._in_time(outputs, gap / self.scale, seen)
        by_mark = F.cross_entropy(self.to_marks(read), mark.long().clamp(min=0), reduction="none") * seen
        return (self.eta * in_time + self.theta * by_mark).mean()

    def _likelihood(self, read: Tensor, y: Tensor) -> Likelihood:
        gap, mark = targets_of(y).unbind(1)
        seen, gap = mark >= 0, gap / self.scale
        outputs = self.to_gap(read)
        in_time = self._in_time(outputs, gap, seen) - torch.log(self.scale) * seen
        log_marks = self.to_marks(read).log_softmax(1)
        return Likelihood(in_time, of_mark(log_marks, mark), -self.gap.log_survival(gap, outputs))

    def _in_time(self, outputs: Tensor, gap: Tensor, seen: Tensor) -> Tensor:
        """Log-density where an event was seen, else log-survival."""
        density = self.gap.log_density(gap, outputs)
        if bool(seen.all()):
            return density
        return torch.where(seen, density, self.gap.log_survival(gap, outputs))


class _LSTM(nn.Module):
    """torch's LSTM, without its state."""

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        states: Tensor = self.lstm(features)[0]
        return states


def _sequence(kind: str, inputs: int, hidden: int, layers: int) -> nn.Module | None:
    """What runs over a window's nodes in place of graph convolutions, or above them."""
    if kind == "lstm":
        return _LSTM(inputs, hidden, layers)
    if kind == "transformer":
        layer = nn.TransformerEncoderLayer(hidden, 1, 2 * hidden, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        return nn.Sequential(nn.Linear(inputs, hidden), encoder)
    return None
