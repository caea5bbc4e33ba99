"""Modules that need an extra are not collected where it is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("numba") else ["beyondprop/layers/spiking/compiled.py"]
