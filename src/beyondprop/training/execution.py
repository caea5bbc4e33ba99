"""How a recipe is executed, as against what it trains; free of torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how a run is computed. A run can be resumed with another device and another number of threads."""

    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, ..."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast to bfloat16 around the rule; weights stay float32."""
    channels_last: bool = True
    """Keep images and convolution kernels in the channels-last memory format."""
    threads: int | None = None
    """Of torch on the CPU; by default as many as torch chooses."""
    seed: int = 0
    """Of initial weights, order of the data, augmentation, and every draw of the rule."""
