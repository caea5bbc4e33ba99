"""A simulated chip: what a device of metal and light adds to the arithmetic of another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beyondprop.checks import check_number, check_whole
from beyondprop.devices.device import Device, outputs_of
from beyondprop.errors import UserError


class SimulatedChip:
    r"""A device that reads with noise, stores with few bits, wanders and takes its time (arXiv 2303.03986, Section IV).

        read k at time t:   C(Q(θ) + o(t) + θ̃_k) + noise · N(0, 1),     o(t+1) = o(t) + drift · N(0, 1)

    θ is what was written, Q rounds it to the nearest of 2^bits levels evenly spread over -span..span. Perturbations
    have a line of their own and are not rounded. The offsets o are of the chip, not of what is written: writing leaves
    them as they are. Random numbers come from a generator of its own.

    Args:
        device: What computes the cost; of a chip without flaws.
        noise: Standard deviation of what is added to every cost.
        drift: Standard deviation by which the offset of each parameter wanders from one read to the next.
        bits: Of a stored parameter; 0 stores what is written.
        span: Largest size of a stored parameter, where `bits` is not 0.
        latency: Seconds that every call takes beyond the computation.
        seed: Of noise and drift.

    Raises:
        UserError: An argument is out of range.

    >>> from beyondprop.devices.module import ModuleDevice
    >>> chip = SimulatedChip(ModuleDevice(torch.nn.Linear(2, 2)), bits=2, span=3.0)
    >>> chip.stored(torch.tensor([0.4, -1.9, 7.0]))
    tensor([ 1., -1.,  3.])
    """

    def __init__(
        self,
        device: Device,
        *,
        noise: float = 0.0,
        drift: float = 0.0,
        bits: int = 0,
        span: float = 1.0,
        latency: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_number(noise=noise, drift=drift, latency=latency)
        check_number(span=span, above=True)
        check_whole(0, bits=bits)
        if bits > 24:
            raise UserError(f"bits must lie in 0..24, got {bits}")
        self.device, self.size = device, device.size
        self.noise, self.drift, self.bits, self.span, self.latency = noise, drift, bits, span, latency
        self._generator = torch.Generator().manual_seed(seed)
        self._offsets = torch.zeros(device.size)
        self._held: Tensor | None = None

    def write(self, parameters: Tensor) -> None:
        """Store parameters, as well as the chip can."""
        time.sleep(self.latency)
        self._held = self.stored(parameters)
        self.device.write(self._held)

    def present(self, x: Tensor, y: Tensor) -> None:
        """Hold a batch of inputs and targets."""
        time.sleep(self.latency)
        self.device.present(x, y)

    def read(self, perturbations: Tensor) -> Tensor:
        """Return noisy costs, shape (K,); offsets wander from each to the next."""
        time.sleep(self.latency)
        if self.drift > 0:
            steps = torch.randn(perturbations.shape, generator=self._generator) * self.drift
            offsets = self._offsets + steps.cumsum(dim=0)
            self._offsets = offsets[-1].clone()
            perturbations = perturbations + offsets.to(perturbations.dtype)
        costs = self.device.read(perturbations)
        if self.noise > 0:
            costs = costs + self.noise * torch.randn(costs.shape, generator=self._generator).to(costs.dtype)
        return costs

    @property
    def predict(self) -> Callable[[Tensor], Tensor] | None:
        """Outputs at the stored parameters with their present offsets; None where the device within shows none."""
        return None if outputs_of(self.device) is None else self._predict

    def _predict(self, x: Tensor) -> Tensor:
        time.sleep(self.latency)
        predict = outputs_of(self.device)
        if predict is None or self._held is None:
            raise UserError("nothing is written: write parameters before outputs are asked for")
        if self.drift == 0:
            return predict(x)
        self.device.write(self._held + self._offsets.to(self._held.dtype))
        try:
            return predict(x)
        finally:
            self.device.write(self._held)

    def stored(self, parameters: Tensor) -> Tensor:
        """Return Q(θ)."""
        if self.bits == 0:
            return parameters
        step = 2 * self.span / (2**self.bits - 1)
        return ((parameters.clamp(-self.span, self.span) + self.span) / step).round() * step - self.span

    def state(self) -> dict[str, Any]:
        """Return all that decides what is read next."""
        return {"generator": self._generator.get_state(), "offsets": self._offsets}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._generator.set_state(state["generator"])
        self._offsets = state["offsets"].clone()
