"""What the estimators share: samples that are checked, labels of any kind, predictions by the largest score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class ScoringClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that gives each class a score; subclasses write `fit` and `_scores`.

    Attributes:
        classes_: Labels, sorted.
        n_features_in_: Features seen in `fit`: the second dimension of the samples.
        feature_names_in_: Their names, where the samples were a data frame with names.
    """

    classes_: NDArray[Any]

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Class scores, shape (n, classes); of two classes how far the second's is above the first's, shape (n,)."""
        check_is_fitted(self)
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels, shape (n,)."""
        check_is_fitted(self)
        labels: NDArray[Any] = self.classes_[self._scores(X).argmax(axis=1)]
        return labels

    def _scores(self, X: Any) -> NDArray[Any]:
        """Scores of samples that are yet to be checked, shape (n, classes)."""
        raise NotImplementedError

    def _checked(self, X: Any, y: Any, *, reset: bool = True, **options: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Samples and labels as arrays, after scikit-learn's checks; options are those of `validate_data`.

        Raises:
            ValueError: They are no finite numbers, none, of different lengths, or other features than those of before;
                or y holds no labels.
        """
        X, y = validate_data(self, X, y, reset=reset, **options)
        check_classification_targets(y)
        return X, y

    def _set_classes(self, labels: Any) -> None:
        """Note which labels there are.

        Raises:
            ValueError: There is but one.
        """
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ValueError(
                f"a classifier needs samples of at least 2 classes, got one class: {classes.tolist()[0]!r}"
            )
        self.classes_ = classes

    def _indices(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """The index in `classes_` of each label.

        Raises:
            ValueError: A label is none of these.
        """
        unknown = sorted(set(np.unique(y).tolist()) - set(self.classes_.tolist()))
        if unknown:
            raise ValueError(f"y holds the label {unknown[0]!r}, which is none of the classes {self.classes_.tolist()}")
        return np.searchsorted(self.classes_, y).astype(np.int64)
