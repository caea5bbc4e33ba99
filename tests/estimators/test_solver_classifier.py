"""SolverClassifier: scikit-learn's own checks, and the solver fitted directly."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from beyondprop import CascadedLeastSquares, SolverClassifier, ThresholdClassifier, UserError
from beyondprop.catalogue import SYSTEMS
from beyondprop.solver import Solver

SOLVERS = [system.id for system in SYSTEMS if issubclass(kind := system.load(), Solver) and kind.classifies]
SMALL = {
    "threshold": {"hidden": 300},
    "rescnet": {"layers": 2, "filters": 16, "carry": 2},
    "pcanet": {"first": 4, "patch": 3, "stride": 2},
}


@parametrize_with_checks([SolverClassifier(), ThresholdClassifier()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_fits_what_the_solver_fits():
    X, y = load_iris(return_X_y=True)
    network = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 3))
    x = torch.tensor(X, dtype=torch.float32)
    solver = CascadedLeastSquares.for_classifier(network, x[:4], 3, ridge=1e-4).fit(x, torch.tensor(y))
    model = SolverClassifier(CascadedLeastSquares, network, options={"ridge": 1e-4}, batch_size=150).fit(X, y)
    np.testing.assert_allclose(model.decision_function(X), solver(x).numpy(), atol=1e-5)
    names = np.array(["c", "b", "a"])
    named = SolverClassifier(CascadedLeastSquares, network, options={"ridge": 1e-4}, batch_size=32).fit(X, names[y])
    assert np.mean(named.predict(X) == names[model.predict(X)]) > 0.98  # sums over other batches round otherwise
    assert not hasattr(model, "predict_proba")  # nothing says that a solver's scores are logits


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_of_the_catalogue(solver):
    X, y = load_digits(return_X_y=True)
    X, y = X[:200].reshape(-1, 1, 8, 8) / 16, y[:200]
    model = SolverClassifier(solver, options=SMALL[solver], random_state=0).fit(X, y)
    assert model.score(X, y) > 0.8
    other = pickle.loads(pickle.dumps(model))
    assert np.array_equal(other.decision_function(X), model.decision_function(X))
    assert np.array_equal(model.decision_function(X)[3:5], model.decision_function(X[3:5]))


def test_options_can_be_searched():
    X, y = load_iris(return_X_y=True)
    grid = {"options": [{"ridge": 1e-5}, {"ridge": 1e3}]}
    search = GridSearchCV(SolverClassifier(CascadedLeastSquares, random_state=0), grid, cv=3).fit(X, y)
    assert search.best_params_ == {"options": {"ridge": 1e-5}}


def test_what_cannot_be_used_is_told_in_one_line(one_line):
    X, y = load_iris(return_X_y=True)
    with one_line(UserError, "Backprop is no solver", "RuleClassifier"):
        SolverClassifier("bp").fit(X, y)
    with one_line(UserError, "ResCNet", "images"):
        SolverClassifier("rescnet").fit(X, y)
    with one_line(UserError, "batch_size must be a whole number of at least 1"):
        SolverClassifier(CascadedLeastSquares, batch_size=0).fit(X, y)
