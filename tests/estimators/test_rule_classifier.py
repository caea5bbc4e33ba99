"""RuleClassifier: scikit-learn's own checks, gradient descent written out, and what a user of pipelines expects."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from beyondprop import DFA, Backprop, RuleClassifier, UnsupportedNetworkError, UserError
from beyondprop.catalogue import SYSTEMS
from beyondprop.rule import Rule

RULES = [system.id for system in SYSTEMS if issubclass(kind := system.load(), Rule) and kind.classifies]
LATE = {"noprop-ct", "noprop-fm", "spike-timing"}  # which learn more in ten epochs than in two
SGD = functools.partial(torch.optim.SGD, momentum=0.9)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


class Recorder(Backprop):
    """Two phases in each of two stages; notes what it is called with."""

    phases = ("one", "two")
    stages = ("first", "second")
    calls: list = []  # noqa: RUF012  # of the class, for the estimator makes the rule

    def assign_credit(self, x, y, phase):
        self.calls.append((self.stage, phase, y.tolist()))
        return super().assign_credit(x, y, phase)


@pytest.fixture
def recorded():
    Recorder.calls = []
    return Recorder.calls


@parametrize_with_checks([RuleClassifier("dfa", epochs=4, batch_size=16, learning_rate=0.02, random_state=0)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_the_catalogue(rule, iris):
    """It learns, predicts each sample by itself, and a pickled copy goes on to the same bits."""
    X, y = iris[0][::3], iris[1][::3]
    options = {"steps": 2, "hidden": 16} if rule == "noprop-dt" else None  # by default it has more blocks than time
    model = RuleClassifier(rule, (16,), options=options, epochs=2, learning_rate=0.02, random_state=0).fit(X, y)
    assert rule in LATE or model.score(X, y) > 0.6  # chance is 0.33
    assert np.array_equal(model.decision_function(X)[3:5], model.decision_function(X[3:5]))
    other = pickle.loads(pickle.dumps(model))
    first, second = (each.partial_fit(X, y).decision_function(X) for each in (model, other))
    assert np.array_equal(first, second)


def descent(X, y, steps, rate, momentum):
    """Softmax regression from zero weights by gradient descent on the mean loss, written out."""
    X = np.c_[X, np.ones(len(X))]
    W, velocity = np.zeros((X.shape[1], y.max() + 1)), 0.0
    for _ in range(steps):
        scores = np.exp(X @ W)
        velocity = momentum * velocity + X.T @ (scores / scores.sum(1, keepdims=True) - np.eye(y.max() + 1)[y]) / len(y)
        W = W - rate * velocity
    return X @ W


def blank(features, classes):
    layer = nn.Linear(features, classes)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


@pytest.mark.parametrize("pieces", ["fit", "partial_fit", "both"])
def test_is_gradient_descent_on_the_users_network(pieces, iris):
    """An epoch in one batch is a step; partial_fit is one more, and keeps the optimizer's momentum."""
    X, y = iris
    model = RuleClassifier("bp", blank, optimizer=SGD, learning_rate=0.3, epochs=5, batch_size=150)
    if pieces == "fit":
        model.fit(X, y)
    elif pieces == "both":
        model.set_params(epochs=3).fit(X, y).partial_fit(X, y).partial_fit(X, y)
    else:
        for _ in range(5):
            model.partial_fit(X, y, classes=[0, 1, 2])
    expected = descent(X, y, 5, 0.3, 0.9)
    np.testing.assert_allclose(model.decision_function(X), expected, atol=1e-4)
    shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), shares, atol=1e-5)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(shares), atol=1e-4)
    assert model.score(X, y) == np.mean(expected.argmax(axis=1) == y)


def test_two_classes_have_one_score_the_logarithm_of_their_odds(iris):
    X, y = iris[0][:100], iris[1][:100]
    model = RuleClassifier("bp", blank, optimizer=SGD, learning_rate=0.3, epochs=2, batch_size=100).fit(X, y)
    expected = descent(X, y, 2, 0.3, 0.9)
    np.testing.assert_allclose(model.decision_function(X), expected[:, 1] - expected[:, 0], atol=1e-4)
    assert np.array_equal(model.predict(X), (model.decision_function(X) > 0).astype(int))


def test_walks_through_stages_and_phases(iris, recorded):
    X, y = iris
    RuleClassifier(Recorder, epochs=2, batch_size=100).fit(X, y)
    stages, phases, labels = zip(*recorded, strict=True)
    assert stages == ("first",) * 8 + ("second",) * 8  # two epochs of two batches in two phases
    assert phases == ("one", "two") * 8
    assert [len(each) for each in labels] == [100, 100, 50, 50] * 4
    assert labels[0] == labels[1] != labels[4]  # the phases see one batch, epochs another order
    assert sorted(labels[0] + labels[2]) == y.tolist()
    recorded.clear()
    RuleClassifier(Recorder, batch_size=100).partial_fit(X, y, classes=[0, 1, 2, 3])
    assert [stage for stage, _, _ in recorded] == ["first"] * 4 + ["second"] * 4


def test_each_call_of_partial_fit_draws_anew(iris, recorded):
    X, y = iris
    model = RuleClassifier(Recorder, batch_size=150, random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    model.partial_fit(X, y).partial_fit(X, y)
    orders = [recorded[first][2] for first in (0, 4, 8)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.5}, "validation must be a fraction below 1, or a whole number"),
        ({"validation": -1}, "validation must be a number of at least 0"),
        ({"optimizer": "adam"}, "optimizer must be a class such as torch.optim.Adam, or a function, not 'adam'"),
        ({"network": nn.Linear(4, 5)}, "network gives scores of shape (4, 5) for 4 samples, and y has 3 classes"),
        ({"network": lambda features, _: nn.Linear(features, 2)}, "y has 3 classes: give it as many outputs"),
    ],
)
def test_refuses_in_one_line(options, message, iris, one_line):
    with one_line(UserError, message):
        RuleClassifier("bp", **options).fit(*iris)


@pytest.mark.parametrize(("validation", "count"), [(30, 30), (30.0, 30), (0.2, 30), (0, 0)])
def test_holds_out_and_tells_of_every_epoch(validation, count, iris, recorded):
    X, y = iris
    model = RuleClassifier(Recorder, epochs=3, batch_size=150, validation=validation, random_state=0).fit(X, y)
    assert {len(labels) for _, _, labels in recorded} == {150 - count}
    assert len(model.history_) == 6
    assert all(("validation_accuracy" in record) == bool(count) for record in model.history_)
    assert all(record["loss"] > 0 for record in model.history_)


def test_random_state_decides_and_torchs_own_stays(iris):
    X, y = iris
    torch.manual_seed(7)
    before = torch.get_rng_state()
    network = lambda features, classes: nn.Sequential(nn.Dropout(0.2), nn.Linear(features, classes))  # noqa: E731
    scores = [
        RuleClassifier("dfa", network, epochs=1, random_state=seed).fit(X, y).decision_function(X)
        for seed in (0, 0, 1, np.random.RandomState(0))
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[3])
    assert not np.allclose(scores[0], scores[2])


def test_a_module_is_copied_with_its_weights(iris):
    X, y = iris
    module = blank(4, 3)
    model = RuleClassifier("bp", module, epochs=2).fit(X, y)
    assert not any(parameter.any() for parameter in module.parameters())
    assert model.rule_.network.weight.any()
    again = clone(model)
    assert again.fit(X, y).network is not module
    assert not any(parameter.any() for parameter in again.network.parameters())


@pytest.mark.parametrize(("network", "widths"), [(None, [64]), ((), []), ((8, 5), [8, 5]), ([7], [7])])
def test_hidden_widths_make_a_perceptron(network, widths, iris):
    model = RuleClassifier("bp", network, epochs=1).fit(*iris)
    linear = [module for module in model.rule_.modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*widths, 3]


def test_images_go_to_a_network_of_images():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60, 2, 6, 6)) + np.arange(60)[:, None, None, None] % 2
    seen = []

    def network(shape, classes):
        seen.append((shape, classes))
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, classes))

    model = RuleClassifier("dfa", network, learning_rate=0.01, random_state=0).fit(X, np.arange(60) % 2)
    assert seen == [((2, 6, 6), 2)]
    assert model.score(X, np.arange(60) % 2) > 0.9
    assert RuleClassifier("bp", epochs=1).fit(X, np.arange(60) % 2).predict(X).shape == (60,)
    for go_on in (model.predict, lambda other: model.partial_fit(other, np.arange(60) % 2)):
        with pytest.raises(ValueError, match=r"shape \(2, 5, 5\), and was fitted to \(2, 6, 6\)"):
            go_on(X[:, :, :5, :5])


def test_strings_pipelines_and_searches(iris):
    names = load_iris().target_names[iris[1]]
    pipeline = make_pipeline(StandardScaler(), RuleClassifier("dfa", (16,), learning_rate=0.02, random_state=0))
    grid = {"ruleclassifier__rule": ["bp", DFA], "ruleclassifier__epochs": [1, 5]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(load_iris().data, names)
    assert search.best_params_["ruleclassifier__epochs"] == 5
    assert search.best_score_ > 0.8
    assert set(search.predict(load_iris().data)) == {"setosa", "versicolor", "virginica"}


def test_data_frames_keep_their_names(iris):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(iris[0], columns=["a", "b", "c", "d"])
    labels = pandas.Series(np.array(["x", "y", "z"])[iris[1]])
    model = RuleClassifier("bp", epochs=2, random_state=0).fit(frame, labels)
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert model.n_features_in_ == 4
    assert set(model.predict(frame)) <= {"x", "y", "z"}
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c", "d"]])


def test_labels_are_indexed_in_sorted_order(iris):
    X, y = iris
    model = RuleClassifier("bp", blank, optimizer=SGD, learning_rate=0.3, epochs=5, batch_size=150)
    model.fit(X, np.array([30, -2, 4])[y])
    assert model.classes_.tolist() == [-2, 4, 30]
    np.testing.assert_allclose(model.decision_function(X)[:, [2, 0, 1]], descent(X, y, 5, 0.3, 0.9), atol=1e-4)


def test_options_reach_the_rule(iris):
    model = RuleClassifier("noprop-dt", options={"steps": 3, "hidden": 8}, epochs=1).fit(*iris)
    assert len(model.rule_.network) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "dfaa"}, ("there is no system 'dfaa'", "did you mean 'dfa'?")),
        ({"rule": "threshold"}, ("ThresholdNetwork is no rule", "SolverClassifier")),
        ({"rule": nn.Linear}, ("class of rules",)),
        ({"network": (3, 0)}, ("network must be a whole number of at least 1",)),
        ({"network": "wide"}, ("hidden widths", "'wide'")),
        ({"network": lambda *_: 3}, ("must make an nn.Module",)),
        ({"options": {"warp": 9}}, ("Backprop cannot be made with options", "warp")),
        ({"optimizer": lambda *_, **__: 3}, ("one of torch's optimizers",)),
        ({"epochs": 0}, ("epochs must be a whole number of at least 1",)),
        ({"batch_size": 0}, ("batch_size must be a whole number of at least 1",)),
        ({"learning_rate": -1.0}, ("learning_rate must be a number above 0",)),
        ({"lr_schedule": "steep"}, ("lr_schedule", "'steep'")),
        ({"device": "abacus"}, ("there is no device named 'abacus'",)),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(settings, words, iris, one_line):
    with one_line(UserError, *words):
        RuleClassifier(**settings).fit(*iris)


@pytest.mark.parametrize("options", [None, {"solves": 2}])
def test_what_the_rule_cannot_train_is_told_beforehand(options, iris, one_line):
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x) + self.layer(x).tanh()

    with one_line(UnsupportedNetworkError, "layer network (Branched)"):
        RuleClassifier("semi-implicit", Branched(), options=options).fit(*iris)


def test_partial_fit_refuses_other_labels(iris, one_line):
    X, y = iris
    with one_line(ValueError, "needs classes"):
        RuleClassifier("bp").partial_fit(X, y)
    model = RuleClassifier("bp").partial_fit(X, y, classes=[0, 1, 2])
    with one_line(ValueError, "classes are [0, 1], and were [0, 1, 2]"):
        model.partial_fit(X, y, classes=[0, 1])
    with one_line(ValueError, "label 5", "[0, 1, 2]"):
        model.partial_fit(X, np.where(y == 0, 5, y))
    assert copy.deepcopy(model).partial_fit(X[:10], y[:10]).predict(X).shape == (150,)


class Drawing(Backprop):
    """A rule whose predictions draw."""

    def forward(self, x):
        return super().forward(x) + torch.randn(len(x), 3)


def test_what_is_predicted_is_the_same_each_time(iris):
    X, y = iris
    model = RuleClassifier(Drawing, epochs=1, random_state=0).fit(X, y)
    first = model.decision_function(X)
    torch.rand(1)
    assert np.array_equal(model.decision_function(X), first)


def test_random_state_decides_what_is_held_out(iris, recorded):
    X, _ = iris
    trained_on = []
    for seed in (0, 1, 0):
        recorded.clear()
        model = RuleClassifier(Recorder, epochs=1, batch_size=150, validation=30, random_state=seed)
        model.fit(X, np.arange(150) // 2)  # a class for every two samples: labels tell which are left
        trained_on.append(sorted(recorded[0][2]))
    assert len(trained_on[0]) == 120
    assert trained_on[0] == trained_on[2] != trained_on[1]


def test_a_network_in_double_precision_is_told(iris, one_line):
    with one_line(UserError, "the network cannot run on an example of shape (4, 4) and torch.float32"):
        RuleClassifier("bp", nn.Linear(4, 3).double()).fit(*iris)
