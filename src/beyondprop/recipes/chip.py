"""Multiplexed gradient descent with a chip in the loop: a simulated one, or whatever answers at an address."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beyondprop.errors import UserError
from beyondprop.recipe import Experiment, Recipe
from beyondprop.recipes.classifiers import NetworkSettings, make_network, make_optimizer
from beyondprop.recipes.multiplexed import updates

if TYPE_CHECKING:
    from torch import Tensor

    from beyondprop.data import Splits
    from beyondprop.devices import Device, SimulatedChip


@dataclass(frozen=True, kw_only=True)
class ChipSettings(NetworkSettings):
    """Settings of a training with a chip in the loop, and of the chip where it is simulated."""

    chip: str = ""
    """HOST:PORT of a device, as `beyondprop device` prints it; without it a simulated chip in this process. Of a device
    elsewhere, what is said here of network and chip does not count."""
    token_file: str = ""
    """File with the token that the device asks for; without it $BEYONDPROP_TOKEN."""
    timeout: float = 30.0
    """Seconds that an answer of the device may take."""
    stuck_after: int = 256
    """So many costs in a row of the very same value, whatever was perturbed, are a stuck read; 0 never."""
    code: Literal["random", "sequential", "walsh", "sinusoidal"] = "random"
    """How perturbations of the parameters share time."""
    norm: float = 0.3
    """Length of a perturbation of all parameters."""
    tau_x: int = 256
    """Steps for which a batch is presented, each with a perturbation of its own."""
    tau_theta: int = 0
    """Steps between two updates, which tau_x divides or which divides it; 0 for tau_x."""
    clamp: float = 0.0
    """Largest size of a cost's change that is believed; 0 for any."""
    spread: float = 0.1
    """Largest size of an initial parameter."""
    noise: float = 1e-3
    """Of the simulated chip: standard deviation of noise on every cost that is read."""
    drift: float = 0.0
    """Of the simulated chip: standard deviation by which each parameter's offset wanders from read to read."""
    bits: int = 8
    """Of the simulated chip: of a stored parameter; 0 for all that float32 has."""
    span: float = 2.0
    """Of the simulated chip: largest size of a stored parameter."""
    defects: float = 0.1
    """Of the simulated chip: deviation of each activation's slope, height and place from those of its neighbours."""
    latency: float = 0.0
    """Of the simulated chip: seconds that every call takes beyond the computation."""
    chip_seed: int = 0
    """Of the simulated chip's noise, drift and defects."""


DEFAULT = "mgd/digits-chip"

logger = logging.getLogger("beyondprop.devices")

CHIP_FIELDS = (
    *("network", "hidden", "depth", "activation", "batch_norm"),
    *("noise", "drift", "bits", "span", "defects", "latency", "chip_seed"),
)
"""Settings that make the simulated chip."""


def simulated_chip(settings: ChipSettings, image: Sequence[int], classes: int) -> SimulatedChip:
    """Make the simulated chip of a recipe; no generator of torch's is moved.

    Args:
        settings: Of network and chip.
        image: Channels, height and width.
        classes: Scores a sample.
    """
    import torch

    from beyondprop.devices import ModuleDevice, SimulatedChip, with_defects

    with torch.random.fork_rng(devices=[]):  # its first weights do not count: the training writes its own
        network, example = make_network(settings, image, classes)
    if settings.defects:
        network = with_defects(network, example, settings.defects, seed=settings.chip_seed)
    return SimulatedChip(
        ModuleDevice(network),
        noise=settings.noise,
        drift=settings.drift,
        bits=settings.bits,
        span=settings.span,
        latency=settings.latency,
        seed=settings.chip_seed,
    )


def read_token(file: str | Path) -> str | None:
    """Read the token of a device.

    Args:
        file: That holds it, and nothing else; empty for $BEYONDPROP_TOKEN. Tokens are no flags: others on the machine
            could read them in the list of processes.

    Returns:
        None where there is none.

    Raises:
        UserError: The file cannot be read, or is empty.
    """
    if not str(file):
        return os.environ.get("BEYONDPROP_TOKEN") or None
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the token cannot be read from {file}: {error}") from error
    if not token:
        raise UserError(f"{file} is empty: it must hold the device's token")
    return token


def build(settings: ChipSettings, splits: Splits) -> Experiment:
    """Build the rule around the device."""
    from beyondprop.devices import HARDWARE
    from beyondprop.rules.perturbation.chip import ChipMGD

    classes, device = splits.train.classes, _device(settings, splits)
    rule = ChipMGD(
        device,
        spread=settings.spread,
        classes=classes,
        code=settings.code,
        norm=settings.norm,
        tau_x=settings.tau_x,
        patience={"stuck_after": settings.stuck_after},
        **updates(settings),
    )
    batches = settings.epochs * -(-len(splits.train) // settings.batch_size)

    def measures(_batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        steps = batches * settings.tau_x
        on = {f"{h.name.lower()}_seconds": h.seconds(steps) for h in HARDWARE}
        return {"perturbation_steps": float(steps), **on}

    return Experiment(rule, measures=measures, optimizer=make_optimizer(rule, settings))


def _device(settings: ChipSettings, splits: Splits) -> Device:
    from beyondprop.devices import RemoteDevice

    if settings.chip:
        own = RECIPES[0].settings
        idle = [name for name in CHIP_FIELDS if getattr(settings, name) != getattr(own, name)]
        if idle:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            logger.warning("%s: of the simulated chip alone, without effect on the one at %s", flags, settings.chip)
        return RemoteDevice(settings.chip, token=read_token(settings.token_file), timeout=settings.timeout)
    return simulated_chip(settings, splits.train.images.shape[1:], splits.train.classes)


RECIPES = (
    Recipe(
        DEFAULT,
        "a chip in the loop: a simulated one with noise, defects and eight bits, or the one at --chip",
        "digits",
        ChipSettings(epochs=10, batch_size=64, hidden=32, depth=1, learning_rate=1e-2),
        build,
        choices=lambda _settings: ("Adam with decoupled weight decay", "a chip of the recipe's own flaws"),
    ),
)
