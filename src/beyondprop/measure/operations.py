"""How many floating-point operations a training step takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def floating_point_operations(step: Callable[[], Any]) -> int:
    """Run a training step once and count the operations of its matrix products, convolutions and attention.

    A multiplication and the addition that follows it count as two. Element-wise operations, reductions and whatever a
    kernel of one's own computes (sparse layers, compiled sweeps) are not counted: in dense networks they are a few per
    cent of the operations, though not of the time.

    Args:
        step: Called without arguments: forward and backward passes, the optimizer's step, whatever is to count.

    >>> import torch
    >>> weight, x = torch.ones(50, 100, requires_grad=True), torch.ones(8, 100)
    >>> floating_point_operations(lambda: (x @ weight.T).sum().backward())  # forward, and the weights' gradient
    160000
    """
    counter = _Counter()
    with counter:
        step()
    return counter.total


class _Counter(TorchDispatchMode):
    """Sums torch's own formulas over all operations below autograd.

    torch's `FlopCounterMode` does the same by module, for which it hooks the graph; rules that differentiate inside an
    operation of their own do not bear that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result
