"""A threshold network as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from beyondprop.solvers.threshold.network import Method, ThresholdNetwork


class ThresholdClassifier(ClassifierMixin, BaseEstimator):
    """A `ThresholdNetwork` for scikit-learn's pipelines and searches; parameters as there.

    Features are standardised first, by the training samples' mean and deviation: directions are drawn alike in all of
    them.

    Args:
        method: How the network is found.
        hidden: Random directions; None takes 2000, or as many as there are samples where those are more.
        beta: Weight decay of a sample.
        random_state: Seed of the random directions, an int.

    Attributes:
        classes_: Labels, sorted.
        network_: The fitted `ThresholdNetwork`, of standardised features.
        mean_, scale_: Mean and deviation of each feature; 1 stands for the deviation of a constant one.
        n_features_in_: Features seen in `fit`.
    """

    def __init__(
        self, method: Method = "margin", hidden: int | None = None, beta: float = 1e-3, random_state: int = 0
    ) -> None:
        self.method, self.hidden, self.beta, self.random_state = method, hidden, beta, random_state

    def fit(self, X: Any, y: Any) -> ThresholdClassifier:
        """Fit to samples of shape (n, features) and labels of shape (n,)."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs samples of at least 2 classes, got one class: {self.classes_[0]!r}")
        self.mean_, deviation = X.mean(axis=0), X.std(axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        self.network_ = ThresholdNetwork(
            X.shape[1],
            len(self.classes_),
            method=self.method,
            hidden=max(2000, len(X)) if self.hidden is None else self.hidden,
            beta=self.beta,
            seed=self.random_state,
        ).fit(torch.tensor((X - self.mean_) / self.scale_), torch.tensor(labels))
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """What the network says: shape (n,) for two classes, else (n, classes)."""
        check_is_fitted(self)
        outputs: NDArray[np.float64] = self.network_.outputs(torch.tensor(self._checked(X))).numpy()
        return outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels, shape (n,)."""
        check_is_fitted(self)
        labels: NDArray[Any] = self.classes_[self.network_(torch.tensor(self._checked(X))).argmax(dim=1).numpy()]
        return labels

    def _checked(self, X: Any) -> NDArray[np.float64]:
        checked: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False)
        standardised: NDArray[np.float64] = (checked - self.mean_) / self.scale_
        return standardised
