"""Any solver as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beyondprop.estimators.network import Network, NetworkClassifier, class_of
from beyondprop.solver import Solver
from beyondprop.solvers.cascaded_forward import CascadedLeastSquares
from beyondprop.training.solving import solve


class SolverClassifier(NetworkClassifier):
    """What is fitted rather than stepped, for scikit-learn's pipelines, searches and cross-validation.

    Samples are rows of features, or images of shape (n, channels, height, width), which some solvers need; they are
    taken as they come, in float32.

    Args:
        solver: A class of solvers, or its name in the catalogue such as `"rescnet"`. The default takes any features and
            any labels; `"rescnet"` and `"pcanet"` take images alone, and `"threshold"` no sample that has two labels.
        network: As in `RuleClassifier`; several solvers use nothing of it, or the hidden layers alone.
        options: Settings of the solver itself: what `solver.for_classifier` takes by name.
        batch_size: Samples that are taken in, or predicted, at a time.
        random_state: Seed of weights and of what is drawn: an int, a `RandomState`, or None for another each time.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        verbose: Whether to show progress on stderr.

    Attributes:
        solver_: The fitted solver.
        classes_, n_features_in_, feature_names_in_: As scikit-learn has them.

    Raises:
        UserError: A ValueError: a parameter is out of range, or the samples are none that the solver takes.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> SolverClassifier(network=(100,), random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        solver: str | type[Solver] = CascadedLeastSquares,
        network: Network = None,
        *,
        options: Mapping[str, Any] | None = None,
        batch_size: int = 128,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.solver, self.network, self.options = solver, network, options
        self.batch_size, self.random_state, self.device, self.verbose = batch_size, random_state, device, verbose

    def fit(self, X: Any, y: Any) -> SolverClassifier:
        """Fit anew.

        Args:
            X: Samples, shape (n, features) or (n, channels, height, width); an array or a data frame.
            y: Labels of any kind, shape (n,).
        """
        X, y = self._checked(X, y, dtype=np.float32, allow_nd=True)
        self._set_classes(y)
        with self._random_numbers():
            solver: Solver = self._make(class_of(self.solver, Solver, "RuleClassifier"), X)
            solve(solver, self._batches(X, self._indices(y), shuffle=False), progress=self.verbose)
        self.solver_ = solver
        return self

    def _scores(self, X: Any) -> NDArray[Any]:
        return self._scores_of(self.solver_, X)
