"""Quaternion networks, and their real twins under `bp`: of equal widths, and of equally many parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from beyondprop.recipe import Experiment, Recipe, Schedule, Settings

if TYPE_CHECKING:
    from beyondprop.data import Splits

Algebra = Literal["real", "quaternion"]


@dataclass(frozen=True, kw_only=True)
class QuaternionSettings(Settings):
    """Settings of a classifier and of its quaternion twin."""

    lr_schedule: Schedule = "one-cycle"
    weight_decay: float = 1e-4
    algebra: Algebra = "quaternion"
    """Of all layers whose widths divide by four."""
    network: Literal["mlp", "conv"] = "mlp"
    """A perceptron of ReLU, or seven convolutions with batch norm and a linear layer."""
    width: int = 64
    """Of the perceptron's hidden layers, or of the first convolutions; in real numbers."""
    depth: int = 2
    """Hidden layers of the perceptron."""
    norm: Literal["modulus", "split"] = "modulus"
    """Batch norm of quaternion convolutions: one deviation for a quaternion, or one for each of its components."""


@dataclass(frozen=True, kw_only=True)
class LorenzSettings(Settings):
    """Settings of a forecast of the Lorenz system, whose three coordinates are a pure quaternion."""

    epochs: int = 40
    batch_size: int = 32
    """Sequences in a batch."""
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    lr_schedule: Schedule = "one-cycle"
    algebra: Algebra = "quaternion"
    """Of the recurrent layer."""
    hidden: int = 64
    """Length of its state, in real numbers."""
    shift: int = 10
    """Steps between input and target, of 0.05 time units each."""
    steps: int = 5000
    """Of a series."""
    window: int = 50
    """Length of the sequences into which the series are cut."""
    series: int = 4
    """Training series, and as many for testing."""
    taps: int = 16
    """Steps that the linear filter sees beside which the network is measured."""

    def data(self) -> Splits:
        """Integrate the series."""
        from beyondprop.data.lorenz import lorenz

        return lorenz(shift=self.shift, steps=self.steps, window=self.window, series=self.series)


def build(settings: QuaternionSettings, splits: Splits) -> Experiment:
    """Build the classifier under back-propagation."""
    from beyondprop.networks import quaternion as networks
    from beyondprop.rules.signals.backprop import Backprop
    from beyondprop.rules.signals.quaternion import QuaternionBackprop

    image, classes = [int(size) for size in splits.train.images.shape[1:]], splits.train.classes
    if settings.network == "mlp":
        network = networks.perceptron(
            image, classes, width=settings.width, depth=settings.depth, algebra=settings.algebra
        )
    else:
        network = networks.convolutional(
            image, classes, width=settings.width, algebra=settings.algebra, norm=settings.norm
        )
    kind = QuaternionBackprop if settings.algebra == "quaternion" else Backprop
    count = float(sum(parameter.numel() for parameter in network.parameters()))
    return Experiment(kind(network), measures=lambda _batches: {"parameters": count})


def build_forecast(settings: LorenzSettings, splits: Splits) -> Experiment:
    """Build the recurrent network under back-propagation through time."""
    from torch import nn

    from beyondprop.networks.quaternion import Forecaster, in_algebra
    from beyondprop.recipes.sequences import baselines
    from beyondprop.rules.signals.backprop import Backprop
    from beyondprop.rules.signals.quaternion import QuaternionBackprop

    inputs, outputs = (int(part.shape[2]) for part in (splits.train.images, splits.train.labels))
    network = in_algebra(Forecaster(inputs, settings.hidden, outputs), settings.algebra)
    kind = QuaternionBackprop if settings.algebra == "quaternion" else Backprop
    count = float(sum(parameter.numel() for parameter in network.parameters()))
    found = {"parameters": count, **baselines(splits, settings.taps)}
    return Experiment(kind(network, nn.MSELoss()), measures=lambda _batches: found)


DIGITS = QuaternionSettings(epochs=15, learning_rate=0.03)
MNIST = QuaternionSettings(epochs=10, learning_rate=0.003, width=512)
CIFAR_10 = QuaternionSettings(
    epochs=15, learning_rate=0.01, weight_decay=0.05, network="conv", width=64, norm="split", augment="crop-flip"
)
LORENZ = LorenzSettings()
TWIN = "the real network of"


def choices(settings: QuaternionSettings) -> tuple[str, ...]:
    """Name what is settled where the paper is silent: its own experiments could not be had."""
    if settings.algebra == "real":
        return ()
    real = "first and last layer real" if settings.network == "conv" else "last layer real"
    norms = {"modulus": "batch norm by modulus", "split": "batch norm of each component"}
    norm = (norms[settings.norm],) if settings.network == "conv" else ()
    return ("data and network of ours", real, *norm, "weights drawn by He's criterion")


RECIPES = (
    Recipe(
        "quaternion/digits",
        "a quaternion perceptron on scikit-learn's digits",
        "digits",
        DIGITS,
        build,
        choices=choices,
    ),
    Recipe("quaternion/mnist", "a quaternion perceptron on MNIST", "mnist", MNIST, build, choices=choices),
    Recipe(
        "quaternion/cifar-10",
        "a quaternion convolutional network with a quarter of the parameters on CIFAR-10",
        "cifar-10",
        CIFAR_10,
        build,
        choices=choices,
    ),
    Recipe(
        "quaternion/lorenz",
        "a quaternion LSTM that forecasts the Lorenz system",
        "lorenz",
        LORENZ,
        build_forecast,
        choices=lambda _settings: ("data and network of ours", "readout real"),
        data=LorenzSettings.data,
    ),
)

BASELINES = (
    Recipe(
        "bp/digits-quaternion",
        f"{TWIN} quaternion/digits at equal widths",
        "digits",
        replace(DIGITS, algebra="real"),
        build,
    ),
    Recipe(
        "bp/mnist-quaternion",
        f"{TWIN} quaternion/mnist at equal widths",
        "mnist",
        replace(MNIST, algebra="real"),
        build,
    ),
    Recipe(
        "bp/cifar-10-quaternion",
        f"{TWIN} quaternion/cifar-10 at equal widths",
        "cifar-10",
        replace(CIFAR_10, algebra="real"),
        build,
    ),
    Recipe(
        "bp/cifar-10-quaternion-small",
        f"{TWIN} quaternion/cifar-10 with half the widths: equally many parameters",
        "cifar-10",
        replace(CIFAR_10, algebra="real", width=CIFAR_10.width // 2),
        build,
    ),
    Recipe(
        "bp/lorenz-quaternion",
        f"{TWIN} quaternion/lorenz at equal widths",
        "lorenz",
        replace(LORENZ, algebra="real"),
        build_forecast,
        data=LorenzSettings.data,
    ),
    Recipe(
        "bp/lorenz-quaternion-small",
        f"{TWIN} quaternion/lorenz with equally many parameters",
        "lorenz",
        replace(LORENZ, algebra="real", hidden=LORENZ.hidden // 2),
        build_forecast,
        data=LorenzSettings.data,
    ),
)
