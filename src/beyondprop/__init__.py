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
    from beyondprop.rules.signals.consequential import BPC
    from beyondprop.rules.signals.direct_feedback import DFA, DirectKolenPollack, SignDFA
    from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment, KolenPollack, SignSymmetry
    from beyondprop.rules.signals.proxprop import ProxProp
    from beyondprop.rules.signals.semi_implicit import SemiImplicit
    from beyondprop.rules.signals.target_projection import DRTP, TPSGD
    from beyondprop.training import evaluate, fit

__version__ = "0.1.0"

_HOME = {
    "BPC": "rules.signals.consequential",
    "Backprop": "rules.signals.backprop",
    "ClassEmbedding": "rules.local.noprop",
    "DFA": "rules.signals.direct_feedback",
    "DRTP": "rules.signals.target_projection",
    "DenoisingBlock": "rules.local.noprop",
    "DirectKolenPollack": "rules.signals.direct_feedback",
    "DiscreteSchedule": "rules.local.noprop",
    "FeedbackAlignment": "rules.signals.feedback_alignment",
    "KolenPollack": "rules.signals.feedback_alignment",
    "LearnedSchedule": "rules.local.noprop",
    "NoPropCT": "rules.local.noprop",
    "NoPropDT": "rules.local.noprop",
    "NoPropFM": "rules.local.noprop",
    "NonFiniteError": "errors",
    "ProxProp": "rules.signals.proxprop",
    "Rule": "rule",
    "SemiImplicit": "rules.signals.semi_implicit",
    "SignDFA": "rules.signals.direct_feedback",
    "SignSymmetry": "rules.signals.feedback_alignment",
    "Solver": "rule",
    "TPSGD": "rules.signals.target_projection",
    "TimedBlock": "rules.local.noprop",
    "UnsupportedNetworkError": "errors",
    "UserError": "errors",
    "cosine_schedule": "rules.local.noprop",
    "evaluate": "training",
    "fit": "training",
}

__all__ = [
    "BPC",
    "DFA",
    "DRTP",
    "TPSGD",
    "Backprop",
    "ClassEmbedding",
    "DenoisingBlock",
    "DirectKolenPollack",
    "DiscreteSchedule",
    "FeedbackAlignment",
    "KolenPollack",
    "LearnedSchedule",
    "NoPropCT",
    "NoPropDT",
    "NoPropFM",
    "NonFiniteError",
    "ProxProp",
    "Rule",
    "SemiImplicit",
    "SignDFA",
    "SignSymmetry",
    "Solver",
    "TimedBlock",
    "UnsupportedNetworkError",
    "UserError",
    "cosine_schedule",
    "evaluate",
    "fit",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
