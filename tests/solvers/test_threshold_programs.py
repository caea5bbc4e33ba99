"""The convex programs of threshold networks against enumeration, Clarabel and the non-convex objective itself."""

import itertools
import math

import numpy as np
import pytest
import torch
from gaussian_samples import gaussian

from beyondprop.solvers.threshold import arrangements, shattered
from beyondprop.solvers.threshold.arrangements import enumerated, priced, sampled
from beyondprop.solvers.threshold.lasso import fit_arrangements, solve_lasso
from beyondprop.solvers.threshold.shattered import fit_shattered


def columns(patterns):
    return {column.astype(bool).tobytes() for column in patterns.T}


@pytest.mark.parametrize(("n", "rank"), [(5, 1), (6, 2), (8, 3), (7, 4)])
def test_in_general_position_there_are_as_many_patterns_as_cover_counts(n, rank):
    x = gaussian(n, rank) @ gaussian(rank, rank + 1, seed=9)  # in more dimensions than its rank
    found = enumerated(x)
    assert found.patterns.shape[1] == 2 * sum(math.comb(n - 1, k) for k in range(rank)) + 1  # and that of u = 0
    assert columns(found.patterns) >= columns(sampled(x, 3000, np.random.default_rng(1)).patterns)
    np.testing.assert_array_equal(x @ found.directions + found.biases >= 0, found.patterns)


def test_degenerate_arrangements_are_enumerated_whole():
    """Small whole numbers, many on common lines: every direction of a fine grid of whole numbers is among them."""
    x = np.random.default_rng(3).integers(-1, 2, (7, 3)).astype(float)
    grid = np.array(list(itertools.product(range(-4, 5), repeat=3)), dtype=float).T
    wanted = {column.tobytes() for column in (x @ grid >= 0).T}
    found = enumerated(x)
    assert columns(found.patterns) == wanted
    np.testing.assert_array_equal(x @ found.directions + found.biases >= 0, found.patterns)


def test_pricing_finds_the_best_pattern():
    generator = np.random.default_rng(0)
    for seed in range(5):
        x, residual = gaussian(14, 3, seed), gaussian(14, 1, seed + 50)[:, 0]
        best = np.abs(enumerated(x).patterns.T @ residual).max()
        gains = np.abs(priced(x, residual, generator).patterns.T @ residual)
        assert gains[0] == pytest.approx(best)
        assert (np.diff(gains) <= 1e-12).all()


def test_the_lasso_is_the_best_over_all_supports_and_signs():
    """Brute force: on each support and for each choice of signs the optimum is a linear system."""
    x, y = gaussian(5, 2), gaussian(5, 1, 5)[:, 0]
    patterns, beta = enumerated(x).patterns, 0.4
    best = y @ y / 2
    for size in (1, 2, 3, 4, 5):
        for support in itertools.combinations(range(patterns.shape[1]), size):
            d = patterns[:, support]
            if np.linalg.matrix_rank(d) < size:
                continue
            for signs in itertools.product((-1, 1), repeat=size):
                w = np.linalg.solve(d.T @ d, d.T @ y - beta * np.array(signs))
                best = min(best, ((d @ w - y) ** 2).sum() / 2 + beta * np.abs(w).sum())
    fit = fit_arrangements(x, y, beta, exact=True)
    assert fit.objective == pytest.approx(best, abs=1e-10)
    assert fit.gap <= 1e-10
    assert fit.certified_gap == fit.gap


def test_the_dual_certifies_the_optimum():
    x, y = gaussian(20, 3), gaussian(20, 1, 5)[:, 0]
    fit = fit_arrangements(x, y, 0.3, exact=True)
    residual = y - fit.arrangements.patterns @ fit.weights
    assert np.abs(enumerated(x).patterns.T @ residual).max() <= 0.3 * (1 + 1e-9)
    assert fit.objective == pytest.approx(residual @ y - residual @ residual / 2, abs=1e-9)  # strong duality
    assert fit.gap <= 1e-12  # the support is solved exactly, which descent alone does not come to


def test_priced_patterns_come_to_the_optimum_over_all():
    x, y = gaussian(12, 3), gaussian(12, 1, 5)[:, 0]
    exact = fit_arrangements(x, y, 0.3, exact=True)
    found = fit_arrangements(x, y, 0.3, patterns=5)
    assert found.objective == pytest.approx(exact.objective, abs=1e-8)
    assert found.gap <= 1e-6
    assert found.certified_gap >= found.objective - exact.objective
    assert not found.exact
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(found.objectives))
    none = fit_arrangements(x, y, 0.3, patterns=5, rounds=0)
    assert none.objective > exact.objective + 1e-3
    assert none.certified_gap >= none.gap >= none.objective - exact.objective - 1e-9


@pytest.mark.parametrize(
    "make",
    [
        lambda g: enumerated(gaussian(40, 3)).patterns,
        lambda g: sampled(gaussian(100, 20), 1000, g).patterns,
        lambda g: np.hstack([d := (g.random((30, 20)) > 0.5) * 1.0, 1 - d, d[:, :5], np.ones((30, 1))]),  # dependent
    ],
)
@pytest.mark.parametrize("beta", [1e-3, 1e-2, 0.05])
def test_patterns_that_are_much_alike_are_solved_to_rounding(make, beta):
    generator = np.random.default_rng(2)
    patterns = make(generator)
    y = np.sign(generator.standard_normal(len(patterns)))
    fit = solve_lasso(patterns, y, beta * len(y))
    assert fit.gap <= 1e-10
    for share in (0.01, 0.9):
        start = generator.standard_normal(patterns.shape[1]) * (generator.random(patterns.shape[1]) < share)
        started = solve_lasso(patterns, y, beta * len(y), start)
        assert started.gap <= 1e-10
        assert started.objective == pytest.approx(fit.objective, abs=1e-10)


def test_pricing_goes_on_until_it_finds_nothing():
    x = np.hstack([gaussian(40, 8), np.ones((40, 1))])
    y = np.sign(gaussian(40, 1, seed=7)[:, 0])
    fit = fit_arrangements(x, y, 0.3, patterns=200)
    assert fit.priced_out
    assert fit.gap <= 1e-9
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(fit.objectives))
    residual = y - fit.arrangements.patterns @ fit.weights
    again = priced(x, residual, np.random.default_rng(5)).patterns
    assert np.abs(again.T @ residual).max() <= 1.05 * 0.3
    with pytest.warns(UserWarning, match="after 2 rounds of pricing there are still patterns"):
        cut = fit_arrangements(x, y, 0.3, patterns=200, rounds=2)
    assert not cut.priced_out
    assert cut.gap > 1e-3
    assert cut.objective - cut.gap <= fit.objective <= cut.objective


def test_one_sample_has_one_pattern_and_none():
    for exact in (True, False):
        fit = fit_arrangements(np.array([[1.0, 2.0]]), np.array([1.0]), 0.1, exact=exact)
        np.testing.assert_allclose(fit.weights, [0.9])


def test_patterns_are_made_a_part_at_a_time(monkeypatch):
    whole = enumerated(gaussian(12, 3))
    monkeypatch.setattr(arrangements, "AT_A_TIME", 100)
    parts = enumerated(gaussian(12, 3))
    np.testing.assert_array_equal(whole.patterns, parts.patterns)
    np.testing.assert_array_equal(whole.biases, parts.biases)


def test_nothing_but_zero_is_worth_a_large_penalty():
    x, y = gaussian(8, 2), gaussian(8, 1, 5)[:, 0]
    fit = fit_arrangements(x, y, 1e3, exact=True)
    assert len(fit.weights) == 0
    assert fit.objective == pytest.approx(y @ y / 2)
    assert solve_lasso(enumerated(x).patterns, 0 * y, 0.1).objective == 0


def test_no_network_with_weight_decay_is_better_than_the_lasso():
    """The non-convex objective of many networks of random patterns, with the best weights of each by descent."""
    x, y, beta = gaussian(8, 2), gaussian(8, 1, 5)[:, 0], 0.3
    optimum = fit_arrangements(x, y, beta, exact=True).objective
    patterns = torch.from_numpy(enumerated(x).patterns)
    values = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        s, w = (torch.randn(patterns.shape[1], generator=generator).double().requires_grad_() for _ in range(2))
        optimizer = torch.optim.LBFGS([s, w], max_iter=1000, tolerance_change=1e-13, line_search_fn="strong_wolfe")

        def closure(s=s, w=w, optimizer=optimizer):
            optimizer.zero_grad()
            miss = patterns @ (s * w) - torch.from_numpy(y)
            loss = miss.square().sum() / 2 + beta / 2 * (s.square().sum() + w.square().sum())
            loss.backward()
            return loss

        optimizer.step(closure)
        values.append(float(closure().detach()))
    assert min(values) >= optimum - 1e-9
    assert min(values) == pytest.approx(optimum, rel=1e-3)


def brute_force_shattered(y, beta):
    """Over the level of each sign on a fine grid."""
    grid = np.linspace(0, np.abs(y).max(), 4001)
    total = 0.0
    for side in (np.maximum(y, 0), np.maximum(-y, 0)):
        total += min(((side - np.minimum(side, level)) ** 2).sum() / 2 + beta * level for level in grid)
    return total


@pytest.mark.parametrize("beta", [0.1, 2.0, 50.0])
def test_the_shattered_case_is_the_best_pair_of_levels(beta):
    y = gaussian(40, 1, 7)[:, 0]
    fit = fit_shattered(y, beta)
    assert fit.objective <= brute_force_shattered(y, beta) + 1e-9
    assert fit.objective == pytest.approx(brute_force_shattered(y, beta), abs=1e-4)
    np.testing.assert_allclose(fit.patterns @ fit.weights, fit.outputs, atol=1e-12)
    value = ((fit.outputs - y) ** 2).sum() / 2 + beta * np.abs(fit.weights).sum()
    assert fit.objective == pytest.approx(value, abs=1e-12)


def test_the_shattered_case_is_the_lasso_over_every_pattern():
    y = gaussian(7, 1, 2)[:, 0]
    patterns = np.array(list(itertools.product((0.0, 1.0), repeat=7))).T
    assert fit_shattered(y, 0.5).objective == pytest.approx(solve_lasso(patterns, y, 0.5).objective, abs=1e-9)


def test_signs_have_the_value_on_paper_and_two_neurons():
    y, beta = np.array([1.0] * 30 + [-1.0] * 70), 0.1
    fit = fit_shattered(y, beta)
    assert fit.objective == pytest.approx(2 * beta - beta**2 / 2 * (1 / 30 + 1 / 70), abs=1e-14)
    assert fit.patterns.shape == (100, 2)


def test_the_gap_of_the_closed_form_is_measured(monkeypatch):
    y = gaussian(40, 1, seed=3)[:, 0]
    assert fit_shattered(y, 0.7).gap <= 1e-12
    assert fit_shattered(y, 0.7, counts=np.arange(40) % 3 + 1).gap <= 1e-12
    right = shattered._capped
    monkeypatch.setattr(shattered, "_capped", lambda *given: 0.9 * right(*given))
    worse = fit_shattered(y, 0.7)
    monkeypatch.undo()
    assert worse.gap >= worse.objective - fit_shattered(y, 0.7).objective > 0.01


def test_repeated_targets_count_as_often():
    y, counts = gaussian(9, 1, 3)[:, 0], np.array([1.0, 3, 2, 1, 1, 4, 1, 2, 1])
    repeated = np.repeat(y, counts.astype(int))
    fit = fit_shattered(y, 0.7, counts)
    assert fit.objective == pytest.approx(fit_shattered(repeated, 0.7).objective, abs=1e-12)


def test_the_closed_form_needs_no_patterns():
    """There would be 170 GB of them."""
    fit = fit_shattered(np.random.default_rng(0).standard_normal(150_000), 1.0)
    assert np.unique(fit.outputs).size > 140_000
    assert fit.weights.sum() == pytest.approx(fit.outputs.max() + fit.outputs.min())


@pytest.mark.parametrize("beta", [0.05, 3.0, 40.0])
def test_clarabel_agrees(beta):
    cvxpy = pytest.importorskip("cvxpy", reason="the oracle is cvxpy with Clarabel: pip install 'beyondprop[convex]'")
    y = gaussian(60, 1, 7)[:, 0]
    exact = {"solver": "CLARABEL", "tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13}
    delta = cvxpy.Variable(60)
    largest = cvxpy.norm(cvxpy.pos(delta), "inf") + cvxpy.norm(cvxpy.pos(-delta), "inf")
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(delta - y) / 2 + beta * largest))
    problem.solve(**exact)
    assert fit_shattered(y, beta).objective == pytest.approx(problem.value, abs=1e-8)

    x = gaussian(15, 3)
    patterns = enumerated(x).patterns
    weights = cvxpy.Variable(patterns.shape[1])
    miss = cvxpy.sum_squares(patterns @ weights - y[:15]) / 2
    problem = cvxpy.Problem(cvxpy.Minimize(miss + beta * cvxpy.norm1(weights)))
    problem.solve(**exact)
    assert fit_arrangements(x, y[:15], beta, exact=True).objective == pytest.approx(problem.value, abs=1e-8)
