"""A threshold network as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from beyondprop.estimators.base import ScoringClassifier
from beyondprop.solvers.threshold.network import Method, ThresholdNetwork


class ThresholdClassifier(ScoringClassifier):
    """A `ThresholdNetwork` for scikit-learn's pipelines and searches; parameters as there.

    Features are standardised first, by the training samples' mean and deviation: directions are drawn alike in all of
    them. All is computed in float64.

    Args:
        method: How the network is found.
        hidden: Random directions; None takes 2000, or as many as there are samples where those are more.
        beta: Weight decay of a sample.
        random_state: Seed of the random directions, an int.

    Attributes:
        network_: The fitted `ThresholdNetwork`, of standardised features.
        mean_, scale_: Mean and deviation of each feature; 1 stands for the deviation of a constant one.
        classes_, n_features_in_, feature_names_in_: As scikit-learn has them.
    """

    def __init__(
        self, method: Method = "margin", hidden: int | None = None, beta: float = 1e-3, random_state: int = 0
    ) -> None:
        self.method, self.hidden, self.beta, self.random_state = method, hidden, beta, random_state

    def fit(self, X: Any, y: Any) -> ThresholdClassifier:
        """Fit to samples of shape (n, features) and labels of shape (n,)."""
        X, y = self._checked(X, y, dtype=np.float64)
        self._set_classes(y)
        self.mean_, deviation = X.mean(axis=0), X.std(axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        self.network_ = ThresholdNetwork(
            X.shape[1],
            len(self.classes_),
            method=self.method,
            hidden=max(2000, len(X)) if self.hidden is None else self.hidden,
            beta=self.beta,
            seed=self.random_state,
        ).fit(torch.tensor((X - self.mean_) / self.scale_), torch.tensor(self._indices(y)))
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """What the network says: shape (n,) for two classes, else (n, classes)."""
        check_is_fitted(self)
        outputs: NDArray[np.float64] = self.network_.outputs(self._standardised(X)).numpy()
        return outputs[:, 0] if len(self.classes_) == 2 else outputs

    def _scores(self, X: Any) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self.network_(self._standardised(X)).numpy()
        return scores

    def _standardised(self, X: Any) -> torch.Tensor:
        checked: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False)
        return torch.tensor((checked - self.mean_) / self.scale_)
