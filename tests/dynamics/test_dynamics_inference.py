"""Inference of small networks; closed forms; edges; what is identified and what is not."""

import numpy as np
import pytest
import torch

from beyondprop.dynamics.alternation import Alternation, Windows
from beyondprop.dynamics.comparison import free_run
from beyondprop.dynamics.edges import Shared, sparse_posterior
from beyondprop.dynamics.inference import NetworkInference
from beyondprop.dynamics.local_model import LocalModel
from beyondprop.dynamics.regression import cubics, least_squares, polynomials, sparse_regression
from beyondprop.dynamics.rollout import roll_out
from beyondprop.dynamics.scores import edge_auc, valid_steps, weight_rmse
from beyondprop.dynamics.simulation import network_slope, observe, random_weights, simulate
from beyondprop.dynamics.smoothing import central_differences, smooth
from beyondprop.dynamics.systems import Lorenz
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError


@pytest.fixture(scope="module")
def lorenz():
    weights = random_weights(4, 0.5, seed=3)
    return weights, simulate(Lorenz(), weights, 401, 0.01, washout=5, tolerance=1e-7, seed=1)


@pytest.fixture(scope="module")
def inferred(lorenz):
    weights, series = lorenz
    torch.manual_seed(0)
    inference = NetworkInference(4, 3, interval=0.01, hidden=8, windows=(16,), rounds=1, sweeps=40)
    return weights, series, inference.fit(observe(series[:301], 0.0005, seed=5))


def random_states(nodes=5, samples=400, seed=0):
    random = np.random.default_rng(seed)
    states = random.standard_normal((samples, nodes, 2))
    weights = np.where(random.random((nodes, nodes)) < 0.5, random.normal(0.3, 0.1, (nodes, nodes)), 0)
    np.fill_diagonal(weights, 0)
    x, y = np.moveaxis(states, -1, 0)
    slopes = np.stack((1 + 2 * x - 3 * x * y, y**2 - x), -1)
    for k in range(nodes):
        slopes[:, k, 0] += sum(weights[k, j] * (states[:, j, 0] - states[:, k, 0]) for j in range(nodes))
    return states, slopes, weights


def test_least_squares_is_one_dense_least_squares():
    """Without the elimination: all coefficients and weights in one matrix, of slopes that no library fits."""
    states, slopes, _ = random_states(nodes=3, samples=60)
    slopes = slopes + np.sin(3 * states)
    library = polynomials(states)
    columns = [np.zeros((60, 3, 1)) for _ in range(6)]
    for number, (k, j) in enumerate((k, j) for k in range(3) for j in range(3) if j != k):
        columns[number][:, k, 0] = states[:, j, 0] - states[:, k, 0]
    matrix = np.concatenate((library, *columns), axis=2).reshape(180, -1)
    expected = np.linalg.lstsq(matrix, slopes[..., 0].ravel(), rcond=None)[0]
    found = least_squares(states, slopes)
    np.testing.assert_allclose(found.coefficients[:, 0], expected[:6], atol=1e-9)
    np.testing.assert_allclose(found.weights[~np.eye(3, dtype=bool)], expected[6:], atol=1e-9)


def test_closed_forms_find_what_they_can_express():
    states, slopes, weights = random_states()
    found = least_squares(states, slopes)
    np.testing.assert_allclose(found.weights, weights, atol=1e-9)
    sparse = sparse_regression(states, slopes, library=cubics, threshold=0.05)
    np.testing.assert_allclose(sparse.weights, weights, atol=1e-6)
    assert (sparse.coefficients != 0).sum() == 5
    assert ((sparse.weights != 0) == (weights != 0)).all()
    np.testing.assert_allclose((cubics(states) @ sparse.coefficients)[..., 1], slopes[..., 1], atol=1e-6)


def test_sums_of_zero_make_the_local_model_identifiable():
    """With differences the equations have one solution; with free self-coupling f can take over any part of it."""
    states, _, _ = random_states(nodes=3, samples=100)
    library = polynomials(states)

    def rank(differences):
        columns = []
        for k in range(3):
            for j in range(3):
                if differences and j == k:
                    continue
                column = np.zeros((100, 3, 1))
                column[:, k, 0] = states[:, j, 0] - differences * states[:, k, 0]
                columns.append(column)
        matrix = np.concatenate((library, *columns), axis=2).reshape(300, -1)
        return np.linalg.matrix_rank(matrix), matrix.shape[1]

    found, wanted = rank(differences=True)
    assert found == wanted
    found, wanted = rank(differences=False)
    assert found == wanted - 1

    # The same of a roll-out: f + c x and self-couplings less c are one network, whatever c is.
    x = torch.randn(1, 3, 2)
    w = torch.rand(3, 3)

    def free(c):
        def slope(x):
            pulled = torch.nn.functional.pad((x[..., :1].mT @ (w - c * torch.eye(3)).T).mT, (0, 1))
            return torch.sin(x) + c * torch.nn.functional.pad(x[..., :1], (0, 1)) + pulled

        return roll_out(slope, torch.zeros(3, 3), x, 10, 0.1)

    torch.testing.assert_close(free(0.0), free(0.7))
    moved = roll_out(lambda x: torch.sin(x) + 0.7 * x, w, x, 10, 0.1)
    assert (moved - roll_out(torch.sin, w - 0.7 * torch.eye(3), x, 10, 0.1)).abs().max() > 0.1


def test_smoothing_keeps_polynomials_and_quiets_noise():
    t = np.linspace(0, 1, 60)
    exact = np.stack((t**4 - t, 2 * t**3), -1)[:, None]
    found = smooth(exact, t[1])
    np.testing.assert_allclose(found.states, exact, atol=1e-10)
    np.testing.assert_allclose(found.slopes[:, 0], np.stack((4 * t**3 - 1, 6 * t**2), -1), atol=1e-7)
    slow = np.sin(2 * np.pi * np.linspace(0, 3, 600))[:, None, None]
    noisy = slow + 0.05 * np.random.default_rng(0).standard_normal(slow.shape)
    smoothed = smooth(noisy, 0.005)
    assert smoothed.half_widths[0] >= 12
    assert np.abs(smoothed.states - slow).std() < 0.02
    states, slopes = central_differences(slow, 0.005)
    assert len(states) == 598
    np.testing.assert_allclose(slopes[0, 0, 0], (slow[2] - slow[0]).item() / 0.01)


@pytest.mark.parametrize(
    "precision", [np.array([[80.0, 60], [60, 90]]), np.array([[900.0, 890], [890, 900]])], ids=["mild", "nearly alike"]
)
def test_sparse_posterior_is_the_exact_one_on_two_weights(precision):
    """Against the sum over the four patterns, with the prior that the sampler settles at."""
    random = np.random.default_rng(0)
    truth = np.where(random.random((300, 2)) < 0.4, random.normal(0.5, 0.1, (300, 2)), 0)
    found = truth + random.multivariate_normal([0, 0], np.linalg.inv(precision), 300)
    edges = sparse_posterior(np.broadcast_to(precision, (300, 2, 2)), found, sweeps=150)
    assert edges.share == pytest.approx(0.4, abs=0.12)
    assert edges.centre == pytest.approx(0.5, abs=0.1)
    s, c, v = 0.4, 0.5, 0.1
    exact = np.zeros((300, 2))
    for row in range(300):
        total = 0.0
        for pattern in ((0, 0), (1, 0), (0, 1), (1, 1)):
            there = np.array(pattern, float)
            covariance = np.linalg.inv(precision) + np.diag(there * v**2)
            off = found[row] - there * c
            chance = np.exp(-off @ np.linalg.solve(covariance, off) / 2) / np.sqrt(np.linalg.det(covariance))
            chance *= np.prod(np.where(there == 1, s, 1 - s))
            exact[row] += chance * there
            total += chance
        exact[row] /= total
    assert np.abs(edges.probability - exact).mean() < 0.06
    assert np.corrcoef(edges.probability.ravel(), exact.ravel())[0, 1] > 0.97


def sparse_rows(rows, count, seed):
    """Weights, and a precision under which sums are certain and single ones are not, as of nodes that move alike."""
    random = np.random.default_rng(seed)
    weights = np.where(random.random((rows, count)) < 0.15, random.normal(0.3, 0.1, (rows, count)), 0)
    precision = np.broadcast_to(100 * np.eye(count) + 4000 * np.ones((count, count)), (rows, count, count))
    noise = np.linalg.cholesky(np.linalg.inv(precision)) @ random.standard_normal((rows, count, 1))
    return weights, precision, weights + noise[..., 0]


def test_edges_are_found_where_sums_alone_are_certain():
    """Weights that are drawn one by one, each with its value, stay where they happened to settle."""
    weights, precision, found = sparse_rows(20, 20, seed=3)
    edges = sparse_posterior(precision, found, sweeps=100)
    there = weights != 0
    ranks = edges.probability[there][:, None] - edges.probability[~there]
    assert ((ranks > 0) + 0.5 * (ranks == 0)).mean() > 0.97
    assert np.sqrt(np.mean((edges.mean - weights) ** 2)) < 0.5 * np.sqrt(np.mean((found - weights) ** 2))
    # Probabilities are what they say: of all weights of a probability, so many are there.
    assert edges.probability.mean() == pytest.approx(there.mean(), abs=0.05)


def test_parameters_that_all_rows_share_are_integrated_out():
    """With one row the shared parameter can be taken out of the quadratic by hand."""
    precision, mixed, own = np.diag([400.0, 300.0, 500.0]) + 50, np.array([[[120.0], [90.0], [-40.0]]]), 150.0
    found, slope = np.array([[0.4, 0.05, 0.3]]), 40.0
    out = precision - mixed[0] @ mixed[0].T / own
    best = found[0] + np.linalg.solve(out, mixed[0, :, 0] * slope / own)
    many = 100  # the same again and again, lest the prior's own draw should matter; each with a parameter of its own
    grand = np.zeros((many, 3, many))
    grand[np.arange(many), :, np.arange(many)] = mixed[0, :, 0]
    shared = Shared(own * np.eye(many), grand, np.full(many, slope))
    rows = np.broadcast_to(precision, (many, 3, 3))
    joint = sparse_posterior(rows, np.repeat(found, many, 0), shared=shared, sweeps=100)
    exact = sparse_posterior(np.broadcast_to(out, (many, 3, 3)), np.repeat(best[None], many, 0), sweeps=100)
    known = sparse_posterior(rows, np.repeat(found, many, 0), sweeps=100)
    np.testing.assert_allclose(joint.probability.mean(0), exact.probability.mean(0), atol=0.05)
    np.testing.assert_allclose(joint.mean.mean(0), exact.mean.mean(0), atol=0.02)
    assert np.abs(known.mean.mean(0) - exact.mean.mean(0)).max() > 0.05


def test_scores():
    weights = np.array([[0, 0.5, 0], [0, 0, 0.2], [0, 0, 0]])
    confidence = np.array([[9, 0.9, 0.3], [0.3, 9, 0.3], [0.1, 0.2, 9]])
    assert edge_auc(confidence, weights) == pytest.approx((4 + 2 + 2 * 0.5) / 8)
    assert weight_rmse(weights + np.eye(3), weights) == 0
    assert weight_rmse(weights + 0.1, weights) == pytest.approx(0.1)
    true = np.zeros((2, 5, 2, 1))
    predicted = np.zeros_like(true)
    predicted[0, 3:] = 1.0
    predicted[1, 2] = np.nan
    np.testing.assert_array_equal(valid_steps(predicted, true, np.ones(1)), [3, 2])
    np.testing.assert_array_equal(valid_steps(np.full_like(true, 1e300), true, np.ones(1)), [0, 0])
    np.testing.assert_array_equal(valid_steps(true, true, np.ones(1)), [5, 5])
    with pytest.raises(UserError, match="edges"):
        edge_auc(confidence, 0 * weights)


def small_search(series, allowed):
    torch.manual_seed(0)
    model = LocalModel(3, 0, 6)
    model.scale.fill_(8.0)
    model.rate.fill_(60.0)
    pieces = torch.from_numpy(series[:160]).float().view(10, 16, 4, 3)
    windows = Windows(pieces, pieces[:, 0].clone(), torch.tensor([8.0, 9.0, 9.0]), 0.01, (0,))
    return Alternation(model, torch.zeros(4, 4), allowed, windows, damping=1e-2)


def test_rounds_lower_the_error_and_move_only_what_is_allowed(lorenz):
    weights, series = lorenz
    allowed = torch.from_numpy(weights != 0)
    search = small_search(series, allowed)
    first = search._at.loss
    search.run(5)
    assert search.losses == sorted(search.losses, reverse=True)
    assert search.losses[-1] < 0.05 * first
    assert (search.found[~allowed] == 0).all()
    assert (search.found[allowed] != 0).all()


def test_weights_are_drawn_to_where_they_are_thought_to_be(lorenz):
    weights, series = lorenz
    allowed = torch.from_numpy(weights != 0)
    search = small_search(series, allowed)
    search.centre, search.width = 0.4, 1e-9
    search.run(1)
    torch.testing.assert_close(search.found, 0.4 * allowed)


def test_a_node_that_is_explained_badly_does_not_hold_up_the_others(lorenz):
    """A step that helps all nodes but one is taken by all others."""
    weights, series = lorenz
    search = small_search(series, torch.from_numpy(weights != 0))
    here = search._at
    by_starts = -1e-3 * here.by_starts * search.windows.scale.square()
    by_starts[:, 2] *= -3e3
    none = torch.zeros(4, 3)
    assert search._moved(here, by_starts, none).loss > here.loss
    assert search._take(here, by_starts, none, (1.0, 0.0))
    moved = search._at.starts - here.starts
    assert moved[:, 2].abs().max() == 0
    assert (moved[:, [0, 1, 3]].flatten(1).abs().amax(1) > 0).any()
    assert search._at.loss < here.loss


def test_a_pass_that_is_lost_is_undone_and_windows_stay_as_they_were(lorenz):
    _, series = lorenz
    flat = torch.from_numpy(series[:100]).float().flatten(1)[None]
    batch = [(flat[:, :-1], flat[:, 1:])]
    inference = NetworkInference(4, 3, interval=0.01, hidden=4, windows=(4, 16), rounds=1, sweeps=10)
    for name in ("first guess", "windows of 4"):
        inference.run_pass(name, batch)
    inference.residual.fill_(1e-12)  # what was reached before, as if it had been this good
    before = {name: value.clone() for name, value in inference.state_dict().items() if name != "lost"}
    inference.run_pass("windows of 16", batch)
    assert inference.lost
    assert inference.length == 4
    for name, value in before.items():
        assert torch.equal(inference.state_dict()[name], value), name
    inference.run_pass("first guess", batch)
    assert not inference.lost  # another fit begins anew


def test_the_slab_is_an_estimate_and_weights_that_are_alike_are_no_trap():
    """Its centre and width are means over draws: other draws find nearly the same."""
    random = np.random.default_rng(5)
    truth = np.zeros((8, 7))
    truth[:4, 1] = random.normal(0.3, 0.05, 4)
    precision = np.broadcast_to(1e5 * np.eye(7), (8, 7, 7))
    few = [sparse_posterior(precision, truth, seed=seed, sweeps=100) for seed in range(6)]
    assert max(edges.width for edges in few) < 1.4 * min(edges.width for edges in few)
    alike = sparse_posterior(precision, np.where(truth != 0, 0.3, 0), sweeps=100)
    assert 0.003 < alike.width < 0.1
    assert alike.centre == pytest.approx(0.3, abs=0.03)


def test_finds_the_network_of_a_small_series(inferred):
    weights, series, inference = inferred
    found = inference.weights.numpy()
    assert edge_auc(np.abs(found), weights) == 1
    assert edge_auc(inference.probability.numpy(), weights) == 1
    assert weight_rmse(found, weights) < 0.04
    assert (np.diag(found) == 0).all()
    truth = free_run(lambda t, x: network_slope(Lorenz(), weights, (0,), t, x), series[None, 100], 50, 0.01)
    run = inference.predict(series[100], 50)
    assert run.shape == (51, 4, 3)
    assert np.abs(run.numpy() - truth[0]).max() < 2.0
    assert inference.predict(series[[100, 200]], 3).shape == (2, 4, 4, 3)


def test_predicts_one_sample_ahead(inferred):
    _, series, inference = inferred
    flat = torch.from_numpy(series).float().flatten(1)[None]
    error = (inference(flat[:, :-1]) - flat[:, 1:]).square().mean().sqrt()
    still = (flat[:, :-1] - flat[:, 1:]).square().mean().sqrt()
    assert error < 0.1 * still


def test_state_dict_carries_everything(inferred):
    _, series, inference = inferred
    twin = NetworkInference(4, 3, interval=0.01, hidden=8, windows=(16,))
    twin.load_state_dict(inference.state_dict())
    assert torch.equal(twin.predict(series[0], 5), inference.predict(series[0], 5))
    assert torch.equal(twin.states, inference.states)


def test_a_pass_goes_on_from_what_was_saved(lorenz):
    _, series = lorenz
    flat = torch.from_numpy(series[:60]).float().flatten(1)[None]
    batch = [(flat[:, :-1], flat[:, 1:])]
    torch.manual_seed(1)
    whole = NetworkInference(4, 3, interval=0.01, hidden=4, windows=(8,), rounds=1, sparse=False, sweeps=10)
    whole.run_pass("first guess", batch)
    twin = NetworkInference(4, 3, interval=0.01, hidden=4, windows=(8,), rounds=1, sparse=False, sweeps=10)
    twin.load_state_dict(whole.state_dict())
    for each in (whole, twin):
        each.run_pass("windows of 8", batch)
    assert torch.equal(whole.weights, twin.weights)


def test_a_drive_is_told_by_its_phase():
    inference = NetworkInference(2, 1, interval=0.5, period=4.0, substeps=2)
    found = inference._drive(torch.tensor([0, 3]), 1)
    times = torch.tensor([[0, 0.125, 0.25, 0.375, 0.5], [1.5, 1.625, 1.75, 1.875, 2.0]])
    phase = 2 * torch.pi * times / 4
    torch.testing.assert_close(found, torch.stack((phase.cos(), phase.sin()), 2))


def test_what_cannot_be_inferred_is_told_in_one_line(one_line):
    with one_line(UserError, "coupled"):
        NetworkInference(3, 2, coupled=(2,))
    with one_line(UserError, "nodes"):
        NetworkInference(1, 2)
    with one_line(UserError, "interval"):
        NetworkInference(3, 2, interval=0.0)
    inference = NetworkInference(3, 2)
    with one_line(UserError, "3 nodes"):
        inference.fit(np.zeros((100, 2, 3)))
    with one_line(UserError, "40 samples, and 49 are needed"):
        inference.fit(np.zeros((40, 3, 2)))
    with one_line(UserError, "does not move"):
        inference.fit(np.ones((60, 3, 2)))
    with one_line(NonFiniteError, "NaN"):
        inference.fit(np.full((100, 3, 2), np.nan))
    with one_line(UserError, "call fit first"):
        inference.predict(np.zeros((3, 2)), 5)
    with one_line(UserError, "not str"):
        inference.fit("series.npy")
    inference.states = torch.zeros(1, 1, 3, 2)
    with one_line(UserError, "start"):
        inference.predict(np.zeros((2, 2)), 5)
    assert NetworkInference(3, 2, coupled=1).coupled == (1,)
    with one_line(UnsupportedNetworkError, "classifier"):
        NetworkInference.for_classifier(torch.nn.Linear(2, 2), torch.zeros(1, 2), 2)
