"""Rules and solvers as scikit-learn's estimators.

- `RuleClassifier`: any rule, stepped by any optimizer.
- `SolverClassifier`: any solver.
- `ThresholdClassifier`: the threshold network, in its own precision and with features standardised.
"""

from typing import TYPE_CHECKING

from beyondprop.lazy import lazy_names

if TYPE_CHECKING:
    from beyondprop.estimators.rule import RuleClassifier
    from beyondprop.estimators.solver import SolverClassifier
    from beyondprop.estimators.threshold import ThresholdClassifier

__all__ = ["RuleClassifier", "SolverClassifier", "ThresholdClassifier"]

_HOME = {"RuleClassifier": "rule", "SolverClassifier": "solver", "ThresholdClassifier": "threshold"}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
