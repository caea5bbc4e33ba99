"""Samples of a normal distribution."""

import numpy as np


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))
