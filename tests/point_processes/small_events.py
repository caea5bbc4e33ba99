"""Small event sequences, and oracles that know nothing of the library's tensors."""

import math

import numpy as np
import torch

from beyondprop.data.events import event_sequences
from beyondprop.point_processes import GCHP, RMTPP, THP, HawkesMLE, simulate_hawkes

BASE = (0.3, 0.2)
ALPHA = ((0.4, 0.1), (0.2, 0.3))
DECAY = 1.5
SEED = 3


def simulated(sequences=30, until=50.0, seed=SEED):
    return simulate_hawkes(BASE, ALPHA, DECAY, until=until, sequences=sequences, seed=seed)


def few(ends=True):
    """Two sequences of unequal lengths; the first is observed on after its last event."""
    times = [0.4, 0.9, 1.1, 2.7, 3.0, 0.2, 1.5, 1.9]
    given = {"ends": [3.8, 1.9]} if ends else {}
    return event_sequences(times, [0, 1, 1, 0, 1, 1, 0, 1], [0, 5, 8], **given)


def models(classes=2, mean_gap=0.8):
    """One of each, with parameters that are no special case."""
    torch.manual_seed(1)
    options = {"mean_gap": mean_gap, "longest_gap": 40.0}
    hawkes = HawkesMLE(classes, decays=(0.7, 3.0), **options)
    hawkes.fitted.fill_(True)  # its first parameters will do
    hawkes.base.uniform_(0.2, 0.6)
    hawkes.excitation.uniform_(0.05, 0.2)
    found = {
        "hawkes": hawkes,
        "rmtpp": RMTPP(classes, hidden=8, embedding=3, **options),
        "thp": THP(classes, hidden=8, **options),
    }
    with torch.no_grad():  # so that no intensity dies out within the horizon
        found["rmtpp"].slope.fill_(0.05)
        found["thp"].slope.fill_(0.02)
    for gap in ("exponential", "rayleigh", "gamma", "weibull", "log-normal", "mixture"):
        shape = {"gamma": 1.7, "weibull": 1.3, "log-normal": 0.8}.get(gap)
        found[f"gchp-{gap}"] = GCHP(classes, window=4, hidden=8, gap=gap, shape=shape, times=True, **options)
    return {name: model.double().eval() for name, model in found.items()}


def hawkes_intensity(mark, t, times, marks, parameters=(BASE, ALPHA, (DECAY,))):
    """By the definition, one event after another."""
    base, alpha, decays = parameters
    alpha = np.asarray(alpha).reshape(len(base), len(base), -1)
    rate = base[mark]
    for when, kind in zip(times, marks, strict=True):
        if when < t:
            rate += sum(alpha[mark, kind, d] * beta * math.exp(-beta * (t - when)) for d, beta in enumerate(decays))
    return rate
