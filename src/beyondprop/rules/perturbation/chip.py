"""Multiplexed gradient descent with the chip in the loop: costs are read from a device."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number
from beyondprop.devices.device import Device, check_device, outputs_of
from beyondprop.devices.module import ModuleDevice
from beyondprop.devices.patience import Patience
from beyondprop.errors import DeviceError, UserError
from beyondprop.generators import GeneratorState
from beyondprop.rule import check_labels
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent


class OnDevice(nn.Module):
    """What stands for a device in a training: its parameters, θ, as one vector that an optimizer steps.

    θ here is what counts: before anything is read of the device it is written where it is not what stands there. So the
    device follows every optimizer step, every checkpoint that is restored and every restart of its own.

    Args:
        device: Any, made patient.
        initial: θ at first, shape (P,).
    """

    def __init__(self, device: Patience, initial: Tensor) -> None:
        super().__init__()
        self.device = device
        self.theta = nn.Parameter(initial)

    def forward(self, x: Tensor) -> Tensor:
        """Return the device's outputs for x."""
        return self.device.predict(self.theta, x).to(self.theta)


class OnSimulator(OnDevice):
    """A device whose own state is part of the training's, so that one that is resumed goes on to the same bits."""

    def get_extra_state(self) -> Any:
        """Return the simulator's state."""
        return self.device.device.state()  # type: ignore[attr-defined]  # or it would not be here

    def set_extra_state(self, state: Any) -> None:
        """Put the simulator where it was."""
        self.device.device.restore(state)  # type: ignore[attr-defined]


class ChipMGD(MultiplexedGradientDescent):
    r"""Multiplexed gradient descent (McCaughan et al., arXiv 2303.03986) of a chip that gives nothing but its cost.

    The rule is `MultiplexedGradientDescent`, with C(θ + θ̃(t)) read from a `Device`. A call writes θ, presents the batch
    and reads τ_x + 1 costs, at no perturbation first. A device that is lost, late, or reads NaN or a stuck value is
    asked again (see `Patience`); nothing is drawn anew, so that an answer at last gives the very same update.

    Args:
        device: Any `Device`.
        initial: θ at first, shape (P,); by default uniform in ±`spread`, as the paper starts its small networks.
        spread: Largest size of an initial parameter.
        classes: Of a classifier that shows no outputs: `rule(x)` then presents every sample with each label, and its
            scores are the negative costs, which are log-probabilities where the cost is a cross-entropy.
        patience: Options of `Patience`.
        **options: Of `MultiplexedGradientDescent`: `code`, `norm`, `tau_x`, `tau_p`, `tau_theta`, `clamp`.

    Raises:
        UserError: It is no device, or an option is out of range.
        DeviceError: In `backward` or a prediction, when the device has failed more often than it may. The rule is
            as before the call, which can be made again.
        NonFiniteError: In `backward`, when the data are.

    >>> rule = ChipMGD(ModuleDevice(nn.Linear(4, 3)), tau_x=20)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    network: OnDevice

    def __init__(
        self,
        device: Device,
        *,
        initial: Tensor | None = None,
        spread: float = 0.1,
        classes: int | None = None,
        patience: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        check_device(device)
        check_number(spread=spread)
        if initial is None:
            initial = spread * (2 * torch.rand(device.size) - 1)
        if initial.shape != (device.size,):
            raise UserError(f"initial must hold the device's {device.size} parameters, got {tuple(initial.shape)}")
        # The device has the loss. This one is there for those who measure a rule by its outputs.
        loss = nn.CrossEntropyLoss()
        simulated = all(callable(getattr(device, name, None)) for name in ("state", "restore"))
        kind = OnSimulator if simulated else OnDevice
        super().__init__(kind(Patience(device, **(patience or {})), initial.detach().clone()), loss, **options)
        self.classes = classes

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Put a copy of the classifier on a device that computes it; each batch is presented for 256 steps."""
        del example
        device = ModuleDevice(network)
        return cls(device, **{"initial": device.parameters, "classes": classes, "tau_x": 256, **options})

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """As the rule; labels are checked before the device sees them."""
        if self.classes is not None:
            y = check_labels(y, self.classes)
        code, drawn = copy.deepcopy(self.code.state_dict()), GeneratorState([self.network.theta.device])
        try:
            return super().assign_credit(x, y, phase)
        except DeviceError:  # the same call again, or of the training that resumes, draws the same perturbations
            self.code.load_state_dict(code)
            drawn.restore()
            raise

    def costs(self, perturbations: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Read the costs, shape (K, 1), of perturbed parameters from the device."""
        theta = self.network.theta
        return self.network.device.costs(theta, perturbations[:, 0], x, y).to(theta)[:, None]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the device's outputs for x, or the negative costs of every class where it shows none."""
        if self.classes is None or outputs_of(self.network.device.device) is not None:
            return self.network(x)
        nothing = torch.zeros(1, 1, self.network.theta.numel()).to(self.network.theta)
        labels = torch.arange(self.classes, device=x.device)
        scores = [[-self.costs(nothing, x[i : i + 1], y[None]).squeeze() for y in labels] for i in range(len(x))]
        return torch.stack([torch.stack(row) for row in scores])
