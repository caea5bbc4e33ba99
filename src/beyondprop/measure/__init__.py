"""Measuring what a training step costs.

- `peak_live_bytes`: the most memory that live tensors hold during a step, by class.
- `peak_saved_bytes`: the most memory that is kept for a backward pass at any one time.
"""

from beyondprop.measure.memory import peak_live_bytes, peak_saved_bytes

__all__ = ["peak_live_bytes", "peak_saved_bytes"]
