"""Graphs of windows against loops over their events, and GCHP's network against the formula."""

import math

import numpy as np
import pytest
import torch
from small_events import few, simulated

from beyondprop.data.events import PADDING, targets_and_last
from beyondprop.errors import UserError
from beyondprop.point_processes import GCHP
from beyondprop.point_processes.graph import DenseEdges, ages_of, edges_of, windows_of

KERNELS = {
    "exponential": lambda d, b, longest: b * math.exp(-b * d),
    "gaussian": lambda d, b, longest: math.exp(-d * d / b),
    "linear": lambda d, b, longest: (longest - d + b) / (longest + b),
    "spherical": lambda d, b, longest: 1 - 1.5 * d / b + 0.5 * (d / b) ** 3 if d < b else 0.0,
}
SIZE, BANDWIDTH = 4, 1.3


def brute_force(times, kernel, normalisations):
    """Edges of one window, by loops; its first nodes are missing where there are fewer events than nodes."""
    missing = SIZE - len(times)
    weights = np.zeros((SIZE, SIZE))
    longest = max(times) - min(times)
    for a, one in enumerate(times):
        for b, two in enumerate(times):
            weights[missing + a, missing + b] = KERNELS[kernel](abs(one - two), BANDWIDTH, longest)
    root = np.diag([1 / math.sqrt(s) if s > 0 else 0.0 for s in weights.sum(1)])
    for _ in range(normalisations):
        weights = root @ weights @ root
    return weights


def window_times(events):
    """The times of the last events before each target, sequence by sequence."""
    for i in range(len(events)):
        times = events.times[events.offsets[i] : events.offsets[i + 1]].tolist()
        count = len(times) if events.ends[i] > times[-1] else len(times) - 1
        for j in range(1, count + 1):
            yield times[max(0, j - SIZE) : j]


@pytest.mark.parametrize("normalisations", [0, 1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("targets", [1, 3])
def test_edges_are_those_of_a_loop(kernel, normalisations, targets):
    pieces = few().pieces(history=SIZE, targets=targets)
    gaps, marks = windows_of(pieces.images.double(), pieces.labels.double(), SIZE)
    edges = edges_of(gaps, marks >= 0, kernel, BANDWIDTH, normalisations)
    eye = torch.eye(SIZE, dtype=torch.double)
    found = edges.product(eye.unsqueeze(2).expand(SIZE, SIZE, gaps.shape[1]).contiguous())
    expected = [brute_force(times, kernel, normalisations) for times in window_times(few())]
    assert len(expected) == gaps.shape[1] == 7
    np.testing.assert_allclose(found.permute(2, 0, 1), expected, atol=1e-6)
    np.testing.assert_allclose(edges.last_row().T, [each[-1] for each in expected], atol=1e-6)


def test_windows_hold_the_last_events_and_say_where_there_is_none():
    pieces = few().pieces(history=SIZE)
    gaps, marks = windows_of(pieces.images, pieces.labels, SIZE)
    assert marks[:, 0].tolist() == [PADDING, PADDING, PADDING, 0]
    assert marks[:, 4].tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(ages_of(gaps)[:, 4], [2.1, 1.9, 0.3, 0], atol=1e-6)


def test_chain_product_and_its_gradient_are_those_of_the_matrix():
    torch.manual_seed(0)
    gaps, there = torch.rand(5, 7, dtype=torch.double), torch.rand(5, 7) > 0.2
    features = torch.randn(5, 3, 7, dtype=torch.double)
    target = torch.randn(5, 3, 7, dtype=torch.double)
    results = []
    dense = DenseEdges(ages_of(gaps), there, "exponential", BANDWIDTH)
    dense.normalise(2)
    for edges in (edges_of(gaps, there, "exponential", BANDWIDTH, 2), dense):
        given = features.clone().requires_grad_()
        product = edges.product(given)
        results.append((product, *torch.autograd.grad(product, given, target)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("layers", [1, 2])
def test_network_is_the_papers(layers):
    """relu(A X W + b) once or twice, all nodes and the last row of A read out, softplus for the mean."""
    torch.manual_seed(0)
    model = GCHP(2, window=SIZE, hidden=5, layers=layers, bandwidth=BANDWIDTH, mean_gap=1.0).double().eval()
    events = few()
    pieces = events.pieces(history=SIZE)
    outputs, scores = model.read(pieces.images.double(), pieces.labels.double())
    marks = windows_of(pieces.images, pieces.labels, SIZE)[1].T
    for n, times in enumerate(window_times(events)):
        edges = torch.from_numpy(brute_force(times, "exponential", 1))
        h = torch.stack([(marks[n] == kind).double() for kind in range(2)], 1)
        for layer in model.graph:
            h = torch.relu(edges @ h @ layer.weight.T + layer.bias)
        read = model.from_nodes(h.flatten()) + model.from_edges(edges[-1])
        torch.testing.assert_close(torch.cat((outputs[n], scores[n])), read, atol=1e-5, rtol=1e-5)
    expected = torch.nn.functional.softplus(outputs[:, 0]) + 1e-4
    torch.testing.assert_close(model.outlook(pieces.images.double(), pieces.labels.double()).gap, expected)


def test_losses_are_weighted_as_told():
    torch.manual_seed(0)
    pieces = few().pieces(history=SIZE)
    x, y = pieces.images.double(), pieces.labels.double()
    target = targets_and_last(pieces)[1].double()
    seen = target[:, 1] >= 0
    plain = GCHP(2, window=SIZE, dropout=0.0).double()
    found = plain.likelihood(x, y)
    torch.testing.assert_close(plain.loss(x, y), -(found.gap + found.mark).mean())
    weighted = GCHP(2, window=SIZE, dropout=0.0, eta=3.0, theta=0.5).double()
    weighted.load_state_dict(plain.state_dict())
    torch.testing.assert_close(weighted.loss(x, y), -(3 * found.gap + 0.5 * found.mark).mean())
    squared = GCHP(2, window=SIZE, dropout=0.0, loss="squared").double()
    squared.load_state_dict(plain.state_dict())
    off = (plain.outlook(x, y).gap - target[:, 0]).square() * seen
    torch.testing.assert_close(squared.loss(x, y), (off - found.mark).mean())


@pytest.mark.parametrize("encoder", ["gcn", "lstm", "transformer", "gcn-lstm", "gcn-transformer"])
@pytest.mark.parametrize("layers", [1, 2])
def test_every_encoder_learns_and_comes_back_from_its_state(encoder, layers):
    events = simulated(20)
    pieces = events.pieces(history=6, targets=8)
    torch.manual_seed(0)
    options = {"window": 6, "hidden": 8, "encoder": encoder, "layers": layers, "gap": "mixture", "times": True}
    model = GCHP.for_events(pieces, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(model.backward(pieces.images, pieces.labels))
        optimizer.step()
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    twin = GCHP.for_events(pieces, **options)
    twin.load_state_dict(model.state_dict())
    batches = [(pieces.images, pieces.labels)]
    assert twin.eval().own_figures(batches) == model.eval().own_figures(batches)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 3}, "layers must be one of"),
        ({"kernel": "cosine"}, "kernel must be one of"),
        ({"gap": "cauchy"}, "gap must be one of"),
        ({"window": 0}, "window must be a whole number"),
        ({"bandwidth": 0.0}, "bandwidth must be a number above 0"),
        ({"loss": "absolute"}, "loss must be one of"),
    ],
)
def test_unusable_options_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        GCHP(2, **wrong)
