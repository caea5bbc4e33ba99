"""beyondprop: train neural networks with the learning rules that come after plain back-propagation.

Names are loaded when they are first used, so that `import beyondprop` (and the command line's help) needs no torch.
"""

from typing import TYPE_CHECKING

from beyondprop.lazy import lazy_names

if TYPE_CHECKING:
    from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
    from beyondprop.rule import Rule, Solver
    from beyondprop.rules.local.noprop import (
        ClassEmbedding,
        DenoisingBlock,
        DiscreteSchedule,
        LearnedSchedule,
        NoPropCT,
        NoPropDT,
        NoPropFM,
        TimedBlock,
        cosine_schedule,
    )
    from beyondprop.rules.signals.backprop import Backprop
    from beyondprop.training import evaluate, fit

__version__ = "0.1.0"

_HOME = {
    "Backprop": "rules.signals.backprop",
    "ClassEmbedding": "rules.local.noprop",
    "DenoisingBlock": "rules.local.noprop",
    "DiscreteSchedule": "rules.local.noprop",
    "LearnedSchedule": "rules.local.noprop",
    "NoPropCT": "rules.local.noprop",
    "NoPropDT": "rules.local.noprop",
    "NoPropFM": "rules.local.noprop",
    "NonFiniteError": "errors",
    "Rule": "rule",
    "Solver": "rule",
    "TimedBlock": "rules.local.noprop",
    "UnsupportedNetworkError": "errors",
    "UserError": "errors",
    "cosine_schedule": "rules.local.noprop",
    "evaluate": "training",
    "fit": "training",
}

__all__ = [
    "Backprop",
    "ClassEmbedding",
    "DenoisingBlock",
    "DiscreteSchedule",
    "LearnedSchedule",
    "NoPropCT",
    "NoPropDT",
    "NoPropFM",
    "NonFiniteError",
    "Rule",
    "Solver",
    "TimedBlock",
    "UnsupportedNetworkError",
    "UserError",
    "cosine_schedule",
    "evaluate",
    "fit",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
