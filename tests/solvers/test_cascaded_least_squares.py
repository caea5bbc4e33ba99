"""Cascaded Forward in closed form, against statistics and normal equations written out in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop import data
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.solvers.cascaded_forward import CascadedLeastSquares

CLASSES = 3


def blocks(dtype=torch.float64):
    """Two blocks with three batch norms, two of them in one block; dropout must do nothing."""
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Dropout(0.5)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(6)),
    ).to(dtype)


def samples(count=90, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(count) % CLASSES
    x = torch.randn(count, 1, 8, 8, generator=generator, dtype=dtype) + 3
    x[:, 0, 0, :3] += 4 * F.one_hot(y, CLASSES)
    return x, y


def solver_of(network, batches=None, **options):
    x, y = samples()
    dtype = network[0].weight.dtype
    solver = CascadedLeastSquares(network, x[:2].to(dtype), CLASSES, **options)
    return solver.fit(x.to(dtype), y) if batches is None else solver.fit_batches(batches)


def features_written_out(network, x, of=None):
    """What the two blocks give, with the statistics of the first `of` samples in every batch norm; and these."""
    found, statistics = [], []
    for child in network:
        if isinstance(child, nn.Dropout):
            continue
        if not isinstance(child, nn.BatchNorm2d):
            if isinstance(child, nn.Conv2d) and statistics:
                found.append(x)
            x = child(x)
            continue
        columns = x[:of].transpose(0, 1).flatten(1)
        mean, variance = columns.mean(dim=1), columns.var(dim=1)
        statistics.append((mean, variance))
        x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + child.eps).sqrt()
    return [f.flatten(1) for f in (*found, x)], statistics


def statistics(solver):
    norms = [m for m in solver.cascade.network if isinstance(m, nn.BatchNorm2d)]
    return [(norm.running_mean, norm.running_var) for norm in norms]


def weights(solver):
    return [predictor.linear.weight for predictor in solver.cascade.predictors]


def close(found, wanted, atol=1e-10):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("count", [None, 40])
def test_statistics_are_those_of_the_training_samples(count):
    network, (x, _) = blocks(), samples()
    with torch.no_grad():
        _, wanted = features_written_out(network, x, count)
    close(statistics(solver_of(network, statistics_samples=count)), wanted)


def test_predictors_solve_the_ridge_regression_of_each_block():
    network, (x, y) = blocks(), samples()
    solver = solver_of(network, ridge=0.01)
    with torch.no_grad():
        features, _ = features_written_out(network, x)
    probabilities = 0
    for weight, f in zip(weights(solver), features, strict=True):
        gram = f.T @ f
        penalty = 0.01 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        wanted = torch.linalg.solve(gram + penalty, f.T @ F.one_hot(y, CLASSES).double()).T
        close(weight, wanted)
        probabilities = probabilities + (f @ wanted.T).softmax(dim=1) / 2
    close(solver(x), probabilities.log())
    assert torch.equal(solver(x), solver.cascade.eval()(x))


@pytest.mark.parametrize("sizes", [[90], [1] * 90, [40, 1, 49]], ids=["whole", "single", "uneven"])
def test_batches_of_any_size_give_the_same_fit(sizes):
    x, y = samples()
    pairs = list(zip(x.split(sizes), y.split(sizes), strict=True))
    found, wanted = solver_of(blocks(), pairs, statistics_samples=41), solver_of(blocks(), statistics_samples=41)
    close(statistics(found), statistics(wanted))
    close(weights(found), weights(wanted))


def test_statistics_passes_read_no_more_than_they_need():
    x, y = samples()
    read = []

    def batches():
        for start in range(0, 90, 10):
            read.append(start)
            yield x[start : start + 10], y[start : start + 10]

    solver_of(blocks(), batches, statistics_samples=25)
    assert read == [0, 10, 20] * 3 + list(range(0, 90, 10))


def test_statistics_of_the_network_are_kept_on_request():
    network = blocks()
    network[1].running_mean += 0.7
    kept = copy.deepcopy([(m.running_mean, m.running_var) for m in network if isinstance(m, nn.BatchNorm2d)])
    solver = solver_of(network, statistics_samples=0)
    close(statistics(solver), kept, atol=0)
    assert solver.passes == ("predictors 1-2",)


def test_a_prediction_does_not_depend_on_its_batch_nor_move_anything():
    solver, (x, _) = solver_of(blocks()), samples()
    assert solver.training
    before = copy.deepcopy(solver.state_dict())
    whole = solver(x)
    close(solver(x[7:8]), whole[7:8])
    close(solver(torch.cat([x[7:8], 100 * x[:5]]))[:1], whole[7:8])
    close(solver.eval()(x), whole)
    assert all(torch.equal(value, before[name]) for name, value in solver.state_dict().items())


def test_memory_divides_the_predictors_into_passes_and_changes_no_weight():
    wide = solver_of(blocks())
    narrow = solver_of(blocks(), memory=0)
    assert wide.passes == ("statistics 1", "statistics 2", "statistics 3", "predictors 1-2")
    assert narrow.passes == (*wide.passes[:3], "predictor 1", "predictor 2")
    close(weights(narrow), weights(wide), atol=0)
    assert not narrow._sums
    assert narrow._pooled is None


def test_the_network_stays_as_it_was_but_frozen():
    network = blocks().train()
    network[0].eval()
    keys = list(network.state_dict())
    solver = solver_of(network)
    solver(samples()[0])
    assert list(network.state_dict()) == keys
    assert [m.training for m in network] == [False, *[True] * 8]
    assert not any(m._forward_pre_hooks for m in network.modules())
    assert not any(p.requires_grad for p in solver.parameters())
    assert {m.momentum for m in network if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_products_stay_in_float32_under_autocast():
    (x, y), network = samples(dtype=torch.float32), blocks(torch.float32)
    solver = CascadedLeastSquares(network, x[:2], CLASSES, ridge=1e-3, memory=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = [f.flatten(1) for f in solver.fit(x, y).cascade.eval().features(x)]
        predicted = solver(x)
    assert predicted.dtype == torch.float32
    for weight, f in zip(weights(solver), features, strict=True):
        wide = f.double()
        gram = wide.T @ wide
        penalty = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
        wanted = torch.linalg.solve(gram + penalty, wide.T @ F.one_hot(y, CLASSES).double()).T
        close(weight.double(), wanted, atol=1e-3 * float(wanted.abs().max()))
    scores = [f.float() @ w.T for f, w in zip(features, weights(solver), strict=True)]
    close(predicted, torch.stack([s.softmax(dim=1) for s in scores]).mean(dim=0).log(), atol=1e-5)


def test_learns_the_digits():
    splits = data.load("digits")
    train, test = (((part.images / part.high).float(), part.labels) for part in splits)
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(16)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(32)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )
    solver = CascadedLeastSquares.for_classifier(network, train[0][:2], 10, ridge=1e-3).fit(*train)
    assert len(solver.cascade.blocks) == 2
    assert (solver(test[0]).argmax(dim=1) == test[1]).double().mean() > 0.95


def test_what_cannot_be_fitted_is_told_in_one_line(one_line):
    x, y = samples()
    with one_line(UserError, "0..2", "got 3"):
        CascadedLeastSquares(blocks(), x[:2], CLASSES).fit(x, y + 1)
    with one_line(UserError, "statistics_samples"):
        CascadedLeastSquares(blocks(), x[:2], CLASSES, statistics_samples=-1)
    with one_line(UserError, "ridge must be"):
        CascadedLeastSquares(blocks(), x[:2], CLASSES, ridge=-1.0)
    with one_line(UserError, "block 1", "raise the ridge"):
        CascadedLeastSquares(blocks(), x[:2], CLASSES, ridge=0.0, memory=0).fit(x[:5], y[:5])
    for statistics_samples in (0, None):
        broken = blocks()
        with torch.no_grad():
            broken[6].weight[0, 0, 0, 0] = torch.nan
        solver = CascadedLeastSquares(broken, x[:2], CLASSES, statistics_samples=statistics_samples)
        with one_line(NonFiniteError, "block 2", "NaN"):
            solver.fit(x, y)


def test_networks_that_would_use_the_test_batch_are_refused(one_line):
    x, _ = samples()
    network = blocks()
    network[4] = nn.BatchNorm2d(4, track_running_stats=False).double()
    with one_line(UnsupportedNetworkError, "layer 4", "track_running_stats"):
        CascadedLeastSquares(network, x[:2], CLASSES)
    with one_line(UnsupportedNetworkError, "nn.Sequential"):
        CascadedLeastSquares(network[0], x[:2], CLASSES)
    with one_line(UnsupportedNetworkError, "hidden"):
        CascadedLeastSquares.for_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), x[:2].float(), 3)
