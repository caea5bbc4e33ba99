"""Both ways to compute, and every regime of time constants."""

import importlib.util

import pytest
from spike_regimes import REGIMES

from beyondprop.layers.spiking import sweep


@pytest.fixture(params=["tensors", "compiled"])
def path(request, monkeypatch):
    """Both ways to compute the same: tensor operations, and the compiled sweeps where Numba is installed."""
    if request.param == "tensors":
        monkeypatch.setattr(sweep, "compiled", lambda _module: None)
    elif importlib.util.find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    return request.param


@pytest.fixture(params=REGIMES.values(), ids=REGIMES.keys())
def membrane(request):
    return request.param
