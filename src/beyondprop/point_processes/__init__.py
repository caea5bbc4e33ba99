"""Marked point processes: graph convolution (GCHP), its likelihoods, and the processes that it is compared with."""

from typing import TYPE_CHECKING

from beyondprop.lazy import lazy_names

if TYPE_CHECKING:
    from beyondprop.point_processes.gaps import LogNormalMixture, MomentMatched
    from beyondprop.point_processes.gchp import GCHP
    from beyondprop.point_processes.goodness import Goodness, goodness_of_fit, rescaled_gaps
    from beyondprop.point_processes.hawkes import HawkesMLE
    from beyondprop.point_processes.process import EventModel, Likelihood, Outlook, PointProcess
    from beyondprop.point_processes.recurrent import RMTPP
    from beyondprop.point_processes.simulation import simulate_hawkes
    from beyondprop.point_processes.transformer import THP

__all__ = [
    "GCHP",
    "RMTPP",
    "THP",
    "EventModel",
    "Goodness",
    "HawkesMLE",
    "Likelihood",
    "LogNormalMixture",
    "MomentMatched",
    "Outlook",
    "PointProcess",
    "goodness_of_fit",
    "rescaled_gaps",
    "simulate_hawkes",
]

_HOME = {
    "GCHP": "gchp",
    "RMTPP": "recurrent",
    "THP": "transformer",
    "EventModel": "process",
    "Goodness": "goodness",
    "HawkesMLE": "hawkes",
    "Likelihood": "process",
    "LogNormalMixture": "gaps",
    "MomentMatched": "gaps",
    "Outlook": "process",
    "PointProcess": "process",
    "goodness_of_fit": "goodness",
    "rescaled_gaps": "goodness",
    "simulate_hawkes": "simulation",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
