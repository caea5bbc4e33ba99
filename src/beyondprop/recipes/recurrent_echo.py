"""Recurrent Hamiltonian echo learning, and back-propagation through time of the same leapfrog on the same networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.checks import check_number, check_whole
from beyondprop.recipe import Experiment, Recipe, Schedule, Settings

if TYPE_CHECKING:
    from torch import nn

    from beyondprop.data import Splits
    from beyondprop.rule import Rule


@dataclass(frozen=True, kw_only=True)
class EchoSettings(Settings):
    """Settings of a network of Hamiltonian systems."""

    weight_decay: float = 0.0
    lr_schedule: Schedule = "one-cycle"
    step: float = 1.0
    """δ, of the leapfrog."""
    eps: float = 0.1
    """ε, how far an echo is nudged; back-propagation has none."""
    chunk: int = 32
    """Time steps whose states are held at once."""


@dataclass(frozen=True, kw_only=True)
class RowSettings(EchoSettings):
    """Settings of a classifier of Hamiltonian units that reads images row by row."""

    unit: Literal["linear", "nonlinear"] = "nonlinear"
    """The paper's linear or nonlinear Hamiltonian recurrent units."""
    hidden: int = 64
    """Units of a block."""
    blocks: int = 1
    """Blocks of units, with a gated linear layer behind each."""
    pooling: Literal["mean", "last"] = "mean"
    """What is read: the mean over rows, or what stands behind the last one."""


@dataclass(frozen=True, kw_only=True)
class OscillatorSettings(EchoSettings):
    """Settings of six coupled oscillators that learn to move as six others."""

    batch_size: int = 50
    """Sequences in a batch."""
    validation: int = 0
    """Sequences held out of the training set, to choose settings by; 0 trains on all of it."""
    step: float = 0.5
    """δ; the teacher's is 0.5."""
    length: int = 60
    """Steps of a sequence."""
    sequences: int = 1000
    """For training."""

    def data(self) -> Splits:
        """Ask the teacher."""
        from beyondprop.data.made import coupled_oscillators

        check_whole(1, length=self.length, sequences=self.sequences)
        return coupled_oscillators(steps=self.length, train=self.sequences + self.validation)


def network(settings: Any, splits: Splits) -> nn.Module:
    """Make the network that the settings ask for."""
    from beyondprop.networks import hamiltonian

    check_number(step=settings.step, eps=settings.eps, above=True)
    if isinstance(settings, OscillatorSettings):
        unit = hamiltonian.CoupledOscillators(6, step=settings.step)
        return hamiltonian.HamiltonianNetwork([unit], hamiltonian.Component(3), pooling="every")
    check_whole(1, hidden=settings.hidden, blocks=settings.blocks)
    width = splits.train.images.shape[-1]
    return hamiltonian.hamiltonian_classifier(
        width,
        splits.train.classes,
        size=settings.hidden,
        blocks=settings.blocks,
        unit=settings.unit,
        step=settings.step,
        pooling=settings.pooling,
        piece=width,
    )


def builder(make_rule: Callable[[nn.Module, Any, Any], Rule]) -> Callable[[Any, Splits], Experiment]:
    """Make the build function of a rule that trains a network of Hamiltonian systems.

    Args:
        make_rule: Puts the rule around the network, with the loss that is given, or its own for None, and the settings.
    """

    def build(settings: EchoSettings, splits: Splits) -> Experiment:
        from torch import nn

        regression = isinstance(settings, OscillatorSettings)
        rule = make_rule(network(settings, splits), nn.MSELoss() if regression else None, settings)
        if not regression:
            return Experiment(rule)
        variance = float(splits.test.labels.double().var(correction=0))
        return Experiment(rule, measures=lambda _batches: {"target_variance": variance})

    return build


def by_echo(network: nn.Module, loss: Any, settings: EchoSettings) -> Rule:
    """Put echoes around a network."""
    from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho

    return RecurrentEcho(network, loss, eps=settings.eps, chunk=settings.chunk)


def by_gradient(network: nn.Module, loss: Any, _settings: EchoSettings) -> Rule:
    """Put back-propagation around a network."""
    from beyondprop.rules.signals.backprop import Backprop

    return Backprop(network, loss)


def choices(settings: EchoSettings) -> tuple[str, ...]:
    """Name what the paper does not have, or leaves open."""
    task = (
        "the teacher's constants" if isinstance(settings, OscillatorSettings) else "images by rows (not in the paper)"
    )
    return (task, "the time step δ is ours", "ε by the length of each sample's derivative")


TASKS: dict[str, tuple[str, EchoSettings]] = {
    "digits": ("the digits row by row", RowSettings(epochs=20, learning_rate=0.01, unit="linear", pooling="last")),
    "mnist-rows": (
        "MNIST row by row",
        RowSettings(epochs=10, learning_rate=0.01, hidden=128, unit="linear", pooling="last"),
    ),
    "oscillators": (
        "six coupled oscillators learn to move as six others",
        OscillatorSettings(epochs=10, learning_rate=0.02),
    ),
}

# Learning rates of back-propagation, chosen in the same way among the same ones.
TUNED = {"digits": 0.01, "mnist-rows": 0.01, "oscillators": 0.02}


def recipe(system: str, variant: str, summary: str, settings: EchoSettings, make_rule: Any) -> Recipe:
    """Make a recipe; images come from the data set by whose name the variant begins."""
    dataset = variant.partition("-")[0]
    drawn = getattr(type(settings), "data", None)
    return Recipe(f"{system}/{variant}", summary, dataset, settings, builder(make_rule), choices=choices, data=drawn)


RECIPES = tuple(
    recipe("rhel", variant, f"Hamiltonian echoes: {summary}", settings, by_echo)
    for variant, (summary, settings) in TASKS.items()
)

BASELINES = tuple(
    recipe(
        "bp",
        f"{variant}-rhel",
        f"back-propagation through time, the network of rhel/{variant}",
        replace(settings, learning_rate=TUNED[variant]),
        by_gradient,
    )
    for variant, (_, settings) in TASKS.items()
)
