"""Measuring what a training step costs, and how it stands to back-propagation's.

- `alignment`: angle and norm ratio between a rule's update and back-propagation's gradient, layer by layer.
- `gauss_newton_alignment`: the angle to Gauss-Newton updates, and the share of an update that moves no output.
- `peak_live_bytes`: the most memory that live tensors hold during a step, by class.
- `peak_saved_bytes`: the most memory that is kept for a backward pass at any one time.
- `peak_allocated_bytes`: the most memory that CUDA's allocator gave during a step.
- `floating_point_operations`: of matrix products, convolutions and attention in a step.
- `step_time`: the median time of a step, warm.
"""

from beyondprop.measure.alignment import Alignment, alignment
from beyondprop.measure.gauss_newton import GaussNewtonAlignment, gauss_newton_alignment
from beyondprop.measure.memory import peak_allocated_bytes, peak_live_bytes, peak_saved_bytes
from beyondprop.measure.operations import floating_point_operations
from beyondprop.measure.timing import StepTime, step_time

__all__ = [
    "Alignment",
    "GaussNewtonAlignment",
    "StepTime",
    "alignment",
    "floating_point_operations",
    "gauss_newton_alignment",
    "peak_allocated_bytes",
    "peak_live_bytes",
    "peak_saved_bytes",
    "step_time",
]
