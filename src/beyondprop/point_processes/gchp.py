"""Graph-convolutional Hawkes processes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.layers.dropout import Dropout
from beyondprop.point_processes.gaps import GapName, gap_distribution
from beyondprop.point_processes.graph import GraphConvolution, Kernel, ages_of, edges_of, windows_of
from beyondprop.point_processes.process import Likelihood, Outlook, PointProcess, of_mark, targets_of

Encoder = Literal["gcn", "lstm", "transformer", "gcn-lstm", "gcn-transformer"]
LEAST_TIME = 1e-3  # in mean gaps: of what is shorter the logarithms look the same


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
        normalisations: How often A is multiplied by :math:`D^{-1/2}` from both sides, with its row sums D. The paper's
            code does it twice, with the same D; 0 keeps how close events are to each other.
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
        self.dropout = Dropout(dropout)
        self.gap = gap_distribution(gap, shape=shape, learned=learned_shape, components=components)
        outputs = self.gap.outputs + classes
        self.from_nodes = nn.Linear(hidden * window, outputs)
        self.from_edges = nn.Linear((1 + times) * window, outputs, bias=False)

    def read(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The gap distribution's parameters (targets, outputs) and the marks' scores (targets, marks)."""
        gaps, marks = windows_of(x, y, self.window)
        there = marks >= 0
        gaps = gaps / self.scale
        edges = edges_of(gaps, there, self.kernel, self.bandwidth, self.normalisations)
        kinds = torch.arange(self.classes, device=x.device, dtype=x.dtype)
        features = (marks.unsqueeze(1) == kinds.unsqueeze(1)).to(x.dtype)
        row = edges.last_row()
        if self.times:
            ages = torch.log(ages_of(gaps) + LEAST_TIME) * there
            features = torch.cat((features, (torch.log(gaps + LEAST_TIME) * there).unsqueeze(1), ages.unsqueeze(1)), 1)
            row = torch.cat((row, ages))
        for layer in self.graph:
            features = self.dropout(layer(features, edges))
        if self.sequence is not None:
            features = self.dropout(self.sequence(features.permute(2, 0, 1))).permute(1, 2, 0).contiguous()
        nodes, rest = self.from_nodes, self.from_edges
        read = torch.addmm(nodes.bias.unsqueeze(1), nodes.weight, features.flatten(0, 1)).addmm(rest.weight, row)
        outputs, scores = read.split((self.gap.outputs, self.classes))
        return outputs.T, scores.T

    def likelihood(self, x: Tensor, y: Tensor) -> Likelihood:
        """As `EventModel.likelihood`; gap and mark are independent given what came before."""
        outputs, scores = self.read(x, y)
        gap, mark = targets_of(y).unbind(1)
        seen, gap = mark >= 0, gap / self.scale
        in_time = self._in_time(outputs, gap, seen) - torch.log(self.scale) * seen
        return Likelihood(in_time, of_mark(scores.log_softmax(1), mark), -self.gap.log_survival(gap, outputs))

    def outlook(self, x: Tensor, y: Tensor) -> Outlook:
        """As `EventModel.outlook`."""
        outputs, scores = self.read(x, y)
        return Outlook(self.gap.mean(outputs, self.horizon) * self.scale, scores.log_softmax(1))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a target."""
        outputs, scores = self.read(x, y)
        gap, mark = targets_of(y).unbind(1)
        seen, gap = mark >= 0, gap / self.scale
        if self.criterion == "squared":
            in_time = (self.gap.mean(outputs, self.horizon) - gap).square() * seen
        else:
            in_time = -self._in_time(outputs, gap, seen)
        return (self.eta * in_time - self.theta * of_mark(scores.log_softmax(1), mark)).mean()

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
