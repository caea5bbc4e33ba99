"""Any rule as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from torch.optim import AdamW, Optimizer

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.estimators.network import Network, NetworkClassifier, class_of
from beyondprop.rule import Rule
from beyondprop.training.assembly import make_scheduler, resolve_device
from beyondprop.training.loop import FitResult
from beyondprop.training.loop import fit as fit_rule
from beyondprop.training.random_state import RandomState


class RuleClassifier(NetworkClassifier):
    """A learning rule around a network, for scikit-learn's pipelines, searches and cross-validation.

    `fit` trains as `beyondprop.fit` does: for each stage of the rule and each batch, every phase is one step of the
    optimizer. Samples are rows of features, or images of shape (n, channels, height, width); they are taken as they
    come, in float32, so put a `StandardScaler` before where features have other scales.

    Args:
        rule: A class of rules, or its name in the catalogue such as `"dfa"`.
        network: What is trained: hidden widths of a perceptron with tanh, `(64,)` where None; a module, which is copied
            with its weights; or a function (features, classes) -> module, which gets a shape in place of the number of
            features where samples are images.
        options: Settings of the rule itself: what `rule.for_classifier` takes by name.
        optimizer: Called as `optimizer(groups, lr=learning_rate)`; AdamW where None. For further settings
            `functools.partial(torch.optim.SGD, momentum=0.9)`.
        learning_rate: Above 0; the highest one where a schedule moves it.
        lr_schedule: `"constant"`, `"one-cycle"`, `"cosine"` or `"linear"`; of `fit`, while `partial_fit` holds it.
        epochs: Passes over the samples, for each stage of the rule where it learns in stages one after another.
        batch_size: Samples of a step, and of a call when predicting.
        validation: Samples that `fit` holds out and measures after each epoch, as a number or a fraction; 0 for none.
            They choose nothing: the last epoch's weights predict.
        random_state: Seed of weights, order and noise: an int, a `RandomState`, or None for another each time. torch's
            own generators stay as they are.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        verbose: Whether to show progress on stderr.

    Attributes:
        rule_: The trained rule.
        optimizer_: With which `partial_fit` goes on.
        history_: A record for each epoch of `fit`, or of the last `partial_fit`: loss, accuracy, and what was held out.
        classes_, n_features_in_, feature_names_in_: As scikit-learn has them.

    Raises:
        UserError: A ValueError: a parameter is out of range.
        UnsupportedNetworkError: The rule cannot train the network; the message names the layer.
        NonFiniteError: The loss is NaN or infinite.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> RuleClassifier("dfa", learning_rate=0.01, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        rule: str | type[Rule] = "bp",
        network: Network = None,
        *,
        options: Mapping[str, Any] | None = None,
        optimizer: Callable[..., Optimizer] | None = None,
        learning_rate: float = 3e-3,
        lr_schedule: str = "constant",
        epochs: int = 20,
        batch_size: int = 32,
        validation: float = 0,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.rule, self.network, self.options = rule, network, options
        self.optimizer, self.learning_rate, self.lr_schedule = optimizer, learning_rate, lr_schedule
        self.epochs, self.batch_size, self.validation = epochs, batch_size, validation
        self.random_state, self.device, self.verbose = random_state, device, verbose

    def fit(self, X: Any, y: Any) -> RuleClassifier:
        """Train anew.

        Args:
            X: Samples, shape (n, features) or (n, channels, height, width); an array or a data frame.
            y: Labels of any kind, shape (n,).
        """
        X, y = self._checked(X, y, dtype=np.float32, allow_nd=True)
        self._set_classes(y)
        labels = self._indices(y)
        with self._random_numbers() as seed:
            held_out = None
            if share := _share(self.validation):
                X, held_out_x, labels, held_out_y = train_test_split(X, labels, test_size=share, random_state=seed)
                held_out = self._batches(held_out_x, held_out_y, shuffle=False)
            self._begin(X)
            batches = self._batches(X, labels, shuffle=True)
            stages = len(self.rule_.stages) if self.rule_.stage_span == "training" else 1
            steps = len(batches) * len(self.rule_.passes(self.epochs))
            scheduler = make_scheduler(self.optimizer_, self.lr_schedule, steps, stages)
            self._train(batches, self.epochs, scheduler=scheduler, validation=held_out)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> RuleClassifier:
        """Go on with one more epoch of some samples.

        It is an epoch as `fit` has them: what the rule does beside it, such as the pretraining of feedback, is done
        each time.

        Args:
            X: As in `fit`.
            y: Likewise.
            classes: All labels that there will be; the first call needs them, unless `fit` has seen them.
        """
        begun = hasattr(self, "rule_")
        X, y = self._checked(X, y, reset=not begun, dtype=np.float32, allow_nd=True)
        if not begun and classes is None:
            raise ValueError("the first call of partial_fit needs classes: all labels that there will be")
        if begun and classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes are {np.unique(classes).tolist()}, and were {self.classes_.tolist()} before")
        if not begun:
            self._set_classes(classes)
        labels = self._indices(y)
        with self._random_numbers():
            if begun:
                self._refuse_other_shape(X)
                RandomState(resolve_device(self.device), None).set(self._generators)
            else:
                self._begin(X)
            self._train(self._batches(X, labels, shuffle=True), 1)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Softmax of the scores, shape (n, classes). Nothing calibrates them: see `CalibratedClassifierCV`."""
        check_is_fitted(self)
        probabilities: NDArray[np.float64] = torch.from_numpy(self._scores(X)).double().softmax(dim=1).numpy()
        return probabilities

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """The logarithm of `predict_proba`, exact where that is 0."""
        check_is_fitted(self)
        logarithms: NDArray[np.float64] = torch.from_numpy(self._scores(X)).double().log_softmax(dim=1).numpy()
        return logarithms

    def _begin(self, X: NDArray[np.float32]) -> None:
        """Make the rule and its optimizer."""
        check_whole(1, epochs=self.epochs)
        check_number(above=True, learning_rate=self.learning_rate)
        if self.optimizer is not None and not callable(self.optimizer):
            raise UserError(
                f"optimizer must be a class such as torch.optim.Adam, or a function, not {self.optimizer!r}"
            )
        self.rule_: Rule = self._make(class_of(self.rule, Rule, "SolverClassifier"), X)
        optimizer = (self.optimizer or AdamW)(self.rule_.parameter_groups(), lr=self.learning_rate)
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"optimizer must make one of torch's optimizers, not {type(optimizer).__name__}")
        self.optimizer_ = optimizer

    def _train(self, batches: Any, epochs: int, **options: Any) -> None:
        """Train by the library's loop; what is drawn next time follows what was drawn now."""
        done: FitResult = fit_rule(
            self.rule_, batches, optimizer=self.optimizer_, epochs=epochs, progress=self.verbose, **options
        )
        self.history_ = done.epochs
        self._generators = RandomState(resolve_device(self.device), None).get()

    def _scores(self, X: Any) -> NDArray[Any]:
        return self._scores_of(self.rule_, X)


def _share(validation: float) -> float:
    """What is held out as scikit-learn takes it: a fraction, or a number that is an int.

    >>> _share(0.2), _share(30.0)
    (0.2, 30)
    """
    check_number(validation=validation)
    if validation >= 1 and validation != int(validation):
        raise UserError(f"validation must be a fraction below 1, or a whole number of samples, not {validation}")
    return int(validation) if validation >= 1 else validation
