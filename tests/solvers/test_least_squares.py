"""Streaming least squares, against torch.linalg.lstsq and the normal equations written out, in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.measure.memory import peak_live_bytes
from beyondprop.solvers import least_squares
from beyondprop.solvers.least_squares import LeastSquares, NormalEquations


def samples(count=60, features=10, outputs=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, features, generator=generator, dtype=dtype) * torch.linspace(0.1, 5, features, dtype=dtype)
    return x, torch.randn(count, outputs, generator=generator, dtype=dtype)


def fitted(x, y, batch_size=1000, **options):
    solver = LeastSquares(x[0].numel(), y.shape[1], **options).to(x.dtype)
    return solver.fit(x, y, batch_size=batch_size)


def written_out(x, y, ridge):
    x, y = x.double(), y.double()
    gram = x.T @ x
    return torch.linalg.solve(
        gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64), x.T @ y
    ).T


def test_without_ridge_it_is_lstsq():
    x, y = samples()
    solver = fitted(x, y, ridge=0.0)
    torch.testing.assert_close(solver.weight, torch.linalg.lstsq(x, y).solution.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(solver(x), x @ torch.linalg.lstsq(x, y).solution, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ridge", [1e-5, 0.3])
def test_the_ridge_is_relative_to_the_mean_square_of_features(ridge):
    x, y = samples()
    torch.testing.assert_close(fitted(x, y, ridge=ridge).weight, written_out(x, y, ridge), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        1000 * fitted(1000 * x, y, ridge=ridge)(x), fitted(x, y, ridge=ridge)(x), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("batch_size", [1, 7, 59])
def test_batches_of_any_size_give_the_same_weights(batch_size):
    x, y = samples()
    torch.testing.assert_close(fitted(x, y, batch_size).weight, fitted(x, y).weight, rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [1, 3, 10])
def test_panels_are_the_full_product(monkeypatch, width):
    monkeypatch.setattr(least_squares, "PANEL", width)
    x, y = samples()
    sums = NormalEquations(torch.zeros(3, 10))
    sums.add(x[:20], y[:20])
    sums.add(x[20:], y[20:])
    torch.testing.assert_close(sums.gram.triu(), (x.T @ x).triu(), rtol=0, atol=1e-10)
    torch.testing.assert_close(sums.cross, x.T @ y, rtol=0, atol=1e-10)
    assert (sums.gram[-1, 0] == 0) == (width < 10)  # what no one reads is not computed
    torch.testing.assert_close(sums.solve(1e-5), written_out(x, y, 1e-5), rtol=0, atol=1e-10)


def test_sums_are_kept_in_double():
    x, y = samples(20_000, 4, dtype=torch.float32)
    x = x + 30  # far from the origin, sums of squares lose what tells the samples apart
    wanted = written_out(x, y, 1e-7)
    many = fitted(x, y, batch_size=10, ridge=1e-7)
    assert many.weight.dtype == torch.float32
    torch.testing.assert_close(many.weight.double(), wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))


def test_dependent_features_are_fitted_thanks_to_the_ridge():
    x, _ = samples(500, 10, dtype=torch.float32)
    x = torch.cat([x, x[:, :5] + 1e-6 * x[:, 5:]], dim=1)  # numerically of rank 10
    y = x[:, :3] - x[:, 3:6]
    solver = fitted(x, y)
    assert (solver(x) - y).square().mean() < 1e-5 * y.square().mean()
    assert solver.weight.abs().max() < 2  # not the huge differences that would do as well


def test_more_features_than_samples():
    x, y = samples(20, 300, dtype=torch.float32)
    torch.testing.assert_close(fitted(x, y)(x), y, rtol=0, atol=0.02)


def test_classes_are_one_hot_targets():
    x, _ = samples()
    labels = torch.arange(60) % 3
    by_class = LeastSquares(10, 3).double().fit(x, labels)
    assert torch.equal(by_class.weight, fitted(x, F.one_hot(labels, 3).double()).weight)
    assert torch.equal(LeastSquares(10, 3).double().fit(x, labels.to(torch.uint8)).weight, by_class.weight)


def test_one_output_takes_a_vector_and_inputs_are_flattened():
    x, y = samples(outputs=1)
    solver = LeastSquares(10, 1).double().fit(x.view(60, 5, 2), y[:, 0])
    assert torch.equal(solver.weight, fitted(x, y).weight)
    assert solver(x.view(60, 5, 2)).shape == (60, 1)


def test_autocast_reaches_neither_fit_nor_prediction():
    x, y = samples(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solver = fitted(x, y)
        predicted = solver(x)
    assert torch.equal(solver.weight, fitted(x, y).weight)
    assert torch.equal(predicted, solver(x))


def test_narrow_features_are_multiplied_in_float32():
    x, y = samples()
    sums = NormalEquations(torch.zeros(3, 10))
    sums.add(x.bfloat16(), y)
    torch.testing.assert_close(
        sums.gram.triu(), (x.bfloat16().double().T @ x.bfloat16().double()).triu(), rtol=1e-6, atol=1e-5
    )


def test_data_on_disk_are_fitted_in_the_memory_of_the_sums(tmp_path):
    count, features, width = 3000, 128, 50
    data = np.memmap(tmp_path / "x.bin", dtype=np.float32, mode="w+", shape=(count, features))
    data[:] = np.random.default_rng(0).standard_normal(data.shape)

    def batches():
        for start in range(0, count, width):
            x = torch.from_numpy(np.array(data[start : start + width]))
            yield x, x[:, :2]

    solver = LeastSquares(features, 2)
    peak = peak_live_bytes(lambda: solver.fit_batches(batches), solver)
    gram, batch = features**2 * 8, width * features * 4
    assert peak["total"] < 1.5 * gram + 6 * batch < data.nbytes / 4  # a product in float32 stands beside the sums
    torch.testing.assert_close(solver.weight, torch.eye(2, features), rtol=0, atol=1e-4)
    assert solver._sums is None


def test_solving_takes_no_second_matrix():
    x, y = samples(400, 256)
    sums = NormalEquations(torch.zeros(3, 256))
    sums.add(x, y)
    peak = peak_live_bytes(lambda: sums.solve(1e-3), torch.nn.Identity())
    assert peak["total"] < 1.2 * sums.gram.nbytes


def test_what_cannot_be_solved_is_told_in_one_line(one_line):
    x, y = samples()
    with one_line(UserError, "ridge 0 is too small", "raise the ridge"):
        fitted(torch.cat([x, x[:, :1]], dim=1)[:, [0, 10]], y, ridge=0.0)
    with one_line(UserError, "every feature is zero"):
        fitted(0 * x, y)
    with one_line(UserError, "must have 10 features, got 9"):
        LeastSquares(10, 3).double().fit(x[:, :9], y)
    with one_line(UserError, "shape (batch, 3)", "(60, 2)"):
        LeastSquares(10, 3).double().fit(x, y[:, :2])
    with one_line(UserError, "0..2", "got 3"):
        LeastSquares(10, 3).double().fit(x, torch.arange(60) % 4)
    for ridge in (-1.0, float("nan")):
        with one_line(UserError, "ridge must be"):
            LeastSquares(10, 3, ridge=ridge)
    with one_line(NonFiniteError, "NaN"):
        fitted(x * torch.nan, y)
    with one_line(NonFiniteError, "overflow"):
        fitted(1e25 * x.float(), y.float())
    with one_line(NonFiniteError, "features hold NaN"):
        NormalEquations(torch.zeros(3, 10)).add(x * torch.inf, y)


def test_for_classifier_fits_the_inputs_themselves():
    x = torch.randn(300, 1, 2, 2)
    y = x.flatten(1)[:, :3].argmax(dim=1)
    solver = LeastSquares.for_classifier(torch.nn.Flatten(), x[:2], 3, ridge=0.01).fit(x, y)
    assert solver.ridge == 0.01
    assert (solver(x).argmax(dim=1) == y).double().mean() > 0.8
