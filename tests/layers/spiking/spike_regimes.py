"""Time constants of every closed form, and of none."""

import math

from beyondprop.layers.spiking.membrane import Membrane

REGIMES = {
    "tau_m = 2 tau_s": Membrane(2.0, 1.0),
    "tau_m = tau_s": Membrane(1.0, 1.0, 0.8),
    "no leak": Membrane(math.inf, 0.7),
    "any": Membrane(3.0, 1.0),
    "membrane faster": Membrane(0.5, 1.0, 0.5),
    "milliseconds": Membrane(20.0, 5.0, 5.0),
}
