"""Threshold networks: layers that make given patterns, the convex optimum they attain, straight-through training."""

import copy
import tracemalloc

import numpy as np
import pytest
import sklearn.svm
import torch
from gaussian_samples import gaussian
from sklearn.utils.estimator_checks import parametrize_with_checks

from beyondprop import data
from beyondprop.errors import UserError
from beyondprop.estimators.threshold import ThresholdClassifier
from beyondprop.solvers.threshold import network as network_module
from beyondprop.solvers.threshold.arrangements import enumerated
from beyondprop.solvers.threshold.lasso import fit_arrangements
from beyondprop.solvers.threshold.network import METHODS, ThresholdNetwork
from beyondprop.solvers.threshold.reconstruction import by_margin, by_pseudo_inverse, by_staircase
from beyondprop.solvers.threshold.shattered import fit_shattered
from beyondprop.solvers.threshold.straight_through import SURROGATES, StraightThroughNetwork, fit_straight_through


def task(n=30, d=4, seed=1):
    x = gaussian(n, d, seed)
    return torch.from_numpy(x), torch.from_numpy((np.sin(3 * x[:, 0]) + x[:, 1] > 0).astype(np.int64))


def test_second_layers_make_the_patterns_that_are_asked_for():
    x, patterns = gaussian(50, 5), (gaussian(50, 3, 8) > 0).astype(float)
    directions = gaussian(5, 300, 2)
    hidden = (x @ directions >= 0).astype(float)
    shortest = by_pseudo_inverse(x, patterns, directions)
    np.testing.assert_allclose(shortest.second, np.linalg.pinv(hidden) @ patterns, atol=1e-6)
    widest = by_margin(x, patterns, directions)
    levels = by_staircase(x, patterns, directions[:, 0])
    for layers in (shortest, widest, levels):
        np.testing.assert_array_equal(layers.patterns(x), patterns)
    for column, pattern in enumerate(patterns.T):  # no other weights of the machine's kind have a wider margin
        signs = 2 * pattern - 1
        margins = [
            (signs * (hidden @ layers.second[:, column] + layers.second_bias[column])).min()
            / np.linalg.norm(layers.second[:, column])
            for layers in (widest, shortest)
        ]
        assert margins[0] > margins[1]


@pytest.mark.parametrize("method", METHODS)
def test_networks_attain_the_convex_optimum(method):
    x, y = task(d=2) if method == "exact" else task()
    network = ThresholdNetwork(x.shape[1], 2, method=method, hidden=200, beta=0.01, seed=0).fit(x, y)
    assert network.objective(x, y) == pytest.approx(float(network.optimum), abs=1e-9)
    signs = np.where(y.numpy() == 1, 1.0, -1.0)
    if method in {"lasso", "exact"}:
        fit = fit_arrangements(
            np.hstack([x.numpy(), np.ones((30, 1))]), signs, 0.3, patterns=200, exact=method == "exact"
        )
        assert float(network.optimum) == pytest.approx(fit.objective, abs=1e-9)
        assert float(network.gap) == pytest.approx(fit.certified_gap)
        assert fit.certified_gap <= 1e-6 or method == "lasso"
    else:
        assert float(network.optimum) == pytest.approx(fit_shattered(signs, 0.3).objective)
        assert float(network.gap) == pytest.approx(0, abs=1e-9)
        assert (network(x).argmax(dim=1) == y).all()
    balance = network.amplitude - network.output.abs().sum(dim=0)
    assert balance.abs().max() < 1e-12


@pytest.mark.parametrize("method", ["margin", "lasso"])
def test_more_classes_are_each_one_against_the_rest(method):
    x = torch.from_numpy(gaussian(20, 3))
    y = torch.arange(20) % 3
    network = ThresholdNetwork(3, 3, method=method, hidden=100, beta=0.02, seed=0).fit(x, y)
    assert network.objective(x, y) == pytest.approx(float(network.optimum), abs=1e-9)
    for label in range(3 if method == "margin" else 0):
        alone = ThresholdNetwork(3, 2, method=method, hidden=100, beta=0.02, seed=label).fit(x, (y == label).long())
        assert (network.outputs(x)[:, label] - alone.outputs(x)[:, 0]).abs().max() < 1e-12
    copied = ThresholdNetwork(3, 3, method=method)
    copied.load_state_dict(copy.deepcopy(network.state_dict()))
    assert torch.equal(copied(x), network(x))


def test_the_same_samples_with_other_labels_are_refused(one_line, monkeypatch):
    x, y = task()
    tried = []
    monkeypatch.setattr(network_module, "by_margin", lambda *given: tried.append(given))
    monkeypatch.setattr(network_module, "by_pseudo_inverse", lambda *given: tried.append(given))
    x[1], y[0], y[1] = x[0], 0, 1
    for method in ("margin", "pseudo-inverse", "staircase"):
        with one_line(UserError, "there twice with different targets"):
            ThresholdNetwork(4, 2, method=method, hidden=40, seed=0).fit(x, y)
    assert not tried


def test_a_narrow_first_layer_is_widened():
    x, y = task(n=60)
    network = ThresholdNetwork(4, 2, method="pseudo-inverse", hidden=20, seed=0).fit(x, y)
    assert network.first.shape[1] > 20
    assert (network(x).argmax(dim=1) == y).all()


def test_a_staircase_of_many_steps_takes_little_memory():
    x, y = gaussian(2000, 3), gaussian(2000, 1, seed=1)[:, 0]
    patterns = fit_shattered(y, 0.05 * len(y)).patterns
    tracemalloc.start()
    layers = by_staircase(x, patterns, np.ones(3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(layers.first_bias) > 300
    assert peak < 10 * patterns.nbytes + layers.first.nbytes
    np.testing.assert_array_equal(layers.patterns(x), patterns)


def test_the_opposite_pattern_needs_no_second_machine(monkeypatch):
    x, y = task()
    fitted = []
    right = sklearn.svm.SVC.fit
    monkeypatch.setattr(sklearn.svm.SVC, "fit", lambda *given: fitted.append(1) or right(*given))
    network = ThresholdNetwork(4, 2, hidden=200, seed=0).fit(x, y)
    assert torch.equal(network.second[:, 0], -network.second[:, 1])
    assert len(fitted) == 1
    assert network.second_bias.abs().max() != 0.5  # that of the pseudo-inverse, which mends what the machine misses


def test_outputs_are_made_a_part_at_a_time(monkeypatch):
    x, y = task(d=2)
    networks = [ThresholdNetwork(2, 2, method=method, hidden=200, beta=0.1, seed=0).fit(x, y) for method in METHODS]
    whole = [network(x) for network in networks]
    monkeypatch.setattr(network_module, "AT_A_TIME", 500)
    assert all(torch.equal(each, network(x)) for each, network in zip(whole, networks, strict=True))
    other = ThresholdNetwork(2, 2, method="margin")  # what was fitted tells how many layers there are, not the method
    other.load_state_dict(networks[METHODS.index("lasso")].state_dict())
    assert torch.equal(other(x), whole[METHODS.index("lasso")])


@pytest.mark.parametrize("estimator", SURROGATES)
def test_straight_through_takes_its_surrogate_for_the_derivative(estimator):
    torch.manual_seed(0)
    network = StraightThroughNetwork((3, 4, 5), estimator).double()
    x, y = torch.randn(7, 3).double(), torch.randn(7).double()
    network.objective(x, y, 0.2).backward()
    z1 = x @ network.hidden[0].weight.T + network.hidden[0].bias
    z2 = (z1 >= 0).double() @ network.hidden[1].weight.T + network.hidden[1].bias
    h2 = (z2 >= 0).double()
    miss = h2 @ (network.amplitude * network.output) - y
    kinds = {"identity": (1, 1, 1), "relu": (0, 1, 1), "leaky": (0.01, 1, 1), "clipped": (0, 1, 0)}
    below, inside, above = kinds[estimator]

    def slope(z):
        return torch.where(z < 0, below, torch.where(z <= 1, inside, above)).double()

    delta2 = miss[:, None] * (network.amplitude * network.output) * slope(z2)
    delta1 = (delta2 @ network.hidden[1].weight) * slope(z1)
    torch.testing.assert_close(network.hidden[1].weight.grad, delta2.T @ (z1 >= 0).double())
    torch.testing.assert_close(network.hidden[0].weight.grad, delta1.T @ x)
    wanted = (miss[:, None] * h2).sum(dim=0) * network.output + 0.2 * network.amplitude
    torch.testing.assert_close(network.amplitude.grad, wanted)


def test_straight_through_training_stays_above_the_optimum():
    x, y = task()
    torch.manual_seed(0)
    network = StraightThroughNetwork((4, 50, 20)).double()
    objectives = fit_straight_through(network, x, 2.0 * y - 1, 0.3, epochs=200)
    optimum = fit_shattered(2.0 * y.numpy() - 1, 0.3).objective
    assert optimum < min(objectives) < objectives[0]
    assert len(fit_straight_through(network, x, 2.0 * y - 1, 0.3, epochs=50, until=1e9)) == 1


@parametrize_with_checks([ThresholdClassifier(hidden=100)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_learns_the_digits():
    train, test = data.load("digits")
    x, test_x = (part.images.flatten(1).double() / 16 for part in (train, test))
    network = ThresholdNetwork(64, 10, method="pseudo-inverse", hidden=2000, seed=0).fit(x, train.labels)
    assert (network(x).argmax(dim=1) == train.labels).all()
    assert (network(test_x).argmax(dim=1) == test.labels).double().mean() > 0.85


def test_what_cannot_be_fitted_is_told_in_one_line(one_line):
    x, y = task()
    for options, words in (({"method": "luck"}, "method"), ({"hidden": 0}, "hidden"), ({"beta": 0.0}, "beta")):
        with one_line(UserError, words):
            ThresholdNetwork(4, 2, **options)
    with one_line(UserError, "4 features, got 3"):
        ThresholdNetwork(4, 2).fit(x[:, :3], y)
    with one_line(UserError, "0..1", "got 2"):
        ThresholdNetwork(4, 2).fit(x, y + 1)
    with one_line(UserError, "sample patterns instead"):
        enumerated(gaussian(100, 6))
    with one_line(UserError, "finite"):
        fit_shattered(np.array([np.nan]), 1.0)
    with one_line(UserError, "shape"):
        fit_arrangements(gaussian(5, 2), np.zeros(4), 1.0)
    with one_line(UserError, "identity, relu"):
        StraightThroughNetwork((3, 2), "cubic")
