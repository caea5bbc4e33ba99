"""Training: the loop, the run folder with its checkpoints, evaluation, curves.

`Execution` stays free of torch: the rest is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from beyondprop.lazy import lazy_names
from beyondprop.training.execution import Execution

if TYPE_CHECKING:
    from beyondprop.training.assembly import LoadedRun, load_run
    from beyondprop.training.evaluation import evaluate
    from beyondprop.training.exported import Exported, load_exported, load_exported_run
    from beyondprop.training.interrupts import Interrupted
    from beyondprop.training.loop import FitResult, fit
    from beyondprop.training.run_folder import RunFolder
    from beyondprop.training.runs import Outcome, train

__all__ = [
    "Execution",
    "Exported",
    "FitResult",
    "Interrupted",
    "LoadedRun",
    "Outcome",
    "RunFolder",
    "evaluate",
    "fit",
    "load_exported",
    "load_exported_run",
    "load_run",
    "train",
]

_HOME = {
    "Exported": "exported",
    "FitResult": "loop",
    "Interrupted": "interrupts",
    "LoadedRun": "assembly",
    "Outcome": "runs",
    "RunFolder": "run_folder",
    "evaluate": "evaluation",
    "fit": "loop",
    "load_exported": "exported",
    "load_exported_run": "exported",
    "load_run": "assembly",
    "train": "runs",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
