"""What multiplexed gradient descent needs of a device, and no more."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from beyondprop.errors import UserError


@runtime_checkable
class Device(Protocol):
    """Something with P parameters that turns an input and its target into a cost (arXiv 2303.03986, Section II).

    Any class with these four is a device. All tensors are on the CPU. A call that fails for now (a cable, a driver's
    timeout) raises `OSError` or `DeviceError`: it is asked again. Anything else that is raised ends the training.

    Three more are used where a device has them and they are not None. `predict(x)` gives the outputs for x at the
    parameters as written, scores of shape (batch, classes) for a classifier. `state()` and `restore(state)`, of a
    simulator, give and take all that decides what it reads next, as a dict of tensors, so that a resumed training goes
    on to the same bits.

    Attributes:
        size: P.
    """

    size: int

    def write(self, parameters: Tensor) -> None:
        """Take over parameters, shape (P,), which stay until others are written."""

    def present(self, x: Tensor, y: Tensor) -> None:
        """Hold a batch of inputs and their targets, first dimension the batch, until others are presented."""

    def read(self, perturbations: Tensor) -> Tensor:
        """Read the cost of what is presented, at parameters + perturbations[k] for every k.

        Args:
            perturbations: Shape (K, P). They are added for one read each and leave the parameters as written.

        Returns:
            Costs, means over the batch, shape (K,): a tensor, an array or a list.
        """


def check_device(device: object) -> None:
    """Refuse what is no device.

    Raises:
        UserError: Something is missing, or it has no parameters.
    """
    missing = [name for name in ("size", "write", "present", "read") if not hasattr(device, name)]
    if isinstance(device, type):
        raise UserError(f"{device.__name__} is a class: make a device of it first")
    if missing:
        raise UserError(f"{type(device).__name__} is no device: it has no {', '.join(missing)}")
    if idle := [name for name in ("write", "present", "read") if not callable(getattr(device, name))]:
        raise UserError(f"{type(device).__name__} is no device: its {', '.join(idle)} cannot be called")
    if not isinstance(size := getattr(device, "size"), Integral) or size < 1:  # noqa: B009  # mypy knows no such attribute
        raise UserError(f"the size of {type(device).__name__} must be its number of parameters, got {size!r}")


def outputs_of(device: Any) -> Callable[[Tensor], Tensor] | None:
    """The device's `predict`, or None where it shows no outputs."""
    return getattr(device, "predict", None)
