"""ThresholdClassifier: a threshold network of standardised features, whatever their units."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from beyondprop import ThresholdClassifier
from beyondprop.solvers.threshold.network import ThresholdNetwork


def task(classes, n=60):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(n, 4))
    X[:, 3] = 2.5  # a constant feature has no deviation
    scores = X @ generator.normal(size=(4, 3)) + np.sin(3 * X[:, :3])
    return X, (scores - scores.mean(axis=0))[:, :classes].argmax(axis=1)


@pytest.mark.parametrize("classes", [2, 3])
def test_is_the_network_of_standardised_features(classes):
    X, y = task(classes)
    model = ThresholdClassifier(hidden=80, beta=0.01, random_state=3).fit(X, np.array(["c", "b", "a"])[y])
    deviation = X.std(axis=0)
    standardised = torch.tensor((X - X.mean(axis=0)) / np.where(deviation == 0, 1, deviation))
    network = ThresholdNetwork(4, classes, hidden=80, beta=0.01, seed=3)
    network.fit(standardised, torch.tensor((classes - 1 - y) if classes == 3 else 1 - y))
    expected = network.outputs(standardised).numpy()
    np.testing.assert_allclose(model.decision_function(X), expected[:, 0] if classes == 2 else expected, atol=1e-9)
    assert set(model.classes_) == set("cba"[:classes])


def test_does_not_depend_on_units():
    X, y = task(3)
    units, origin = np.array([1e3, 1e-2, 7.0, 1.0]), np.array([5.0, -40.0, 0.1, 3.0])
    model, other = (ThresholdClassifier(hidden=80).fit(each, y) for each in (X, X * units + origin))
    fresh = task(3, n=200)[0]
    np.testing.assert_allclose(
        model.decision_function(fresh), other.decision_function(fresh * units + origin), atol=1e-6
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_the_decision_decides(classes):
    X, y = task(classes)
    model = ThresholdClassifier(hidden=80).fit(X, y)
    decided = model.decision_function(X)
    assert np.array_equal(model.predict(X), (decided > 0).astype(int) if classes == 2 else decided.argmax(axis=1))
    assert model.score(X, y) == 1.0  # its training samples are fitted exactly


def test_draws_two_thousand_directions_or_as_many_as_there_are_samples():
    X, y = load_iris(return_X_y=True)
    keep = np.unique(X, axis=0, return_index=True)[1]
    model = ThresholdClassifier().fit(X[keep], y[keep])
    assert model.network_.hidden == 2000
