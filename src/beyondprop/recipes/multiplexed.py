"""Multiplexed gradient descent: networks that are evaluated and never differentiated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Published, Recipe, Settings
from beyondprop.recipes.classifiers import NetworkSettings, baseline, make_network, make_optimizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beyondprop.data import Splits

Code = Literal["random", "sequential", "walsh", "sinusoidal"]


@dataclass(frozen=True, kw_only=True)
class MultiplexedSettings(NetworkSettings):
    """Settings of multiplexed gradient descent."""

    code: Code = "random"
    """How perturbations of the parameters share time."""
    norm: float = 0.1
    """Length of a perturbation of all parameters."""
    tau_x: int = 256
    """Steps for which a batch is presented, each with a perturbation of its own."""
    tau_theta: int = 0
    """Steps between two updates, which tau_x divides or which divides it; 0 for tau_x."""
    clamp: float = 0.0
    """Largest size of a cost's change that is believed; 0 for any."""
    cost_noise: float = 0.0
    """Standard deviation of noise on every read of a perturbed cost."""
    update_noise: float = 0.0
    """Standard deviation of noise on every parameter at every update."""


@dataclass(frozen=True, kw_only=True)
class LayerwiseSettings(NetworkSettings):
    """Settings of the perturbation of one layer at a time."""

    perturb: Literal["nodes", "weights"] = "nodes"
    """What of a layer is perturbed."""
    steps: int = 100
    """Perturbations of each layer for a batch; one update follows."""
    norm: float = 1e-2
    """Length of a perturbation of all that a layer has."""
    normalise: bool = True
    """Give each layer's estimate the length that its gradient is expected to have."""
    cost_noise: float = 0.0
    """Standard deviation of noise on every read of a sample's perturbed cost."""
    update_noise: float = 0.0
    """Standard deviation of noise on every parameter at every update."""


@dataclass(frozen=True, kw_only=True)
class ParitySettings(Settings):
    """Settings of a population of small networks that learn the parity of some bits."""

    epochs: int = 40
    batch_size: int = 4
    """Patterns of one presentation."""
    learning_rate: float = 0.05
    """Of Adam."""
    weight_decay: float = 0.0
    hidden: int = 4
    """Units of the one hidden layer."""
    copies: int = 100
    """Networks with weights of their own, which are trained as one batched computation."""
    code: Code = "random"
    """How perturbations of the parameters share time."""
    norm: float = 0.05
    """Length of a perturbation of all parameters."""
    tau_x: int = 1
    """Steps for which a presentation lasts (analog: with an update at each of them)."""
    tau_p: int = 1
    """Steps for which a perturbation is held."""
    analog: bool = False
    """Filters in the place of a remembered baseline and a counted sum."""
    tau_theta: float = 0.0
    """Analog: time constant of the low-pass, in steps. Otherwise steps between two updates; 0 for tau_x."""
    clamp: float = 0.0
    """Largest size of a cost's change that is believed, where it is not analog; 0 for any."""
    tau_hp: float = 1.6
    """Analog: time constant of the high-pass, in steps."""
    cost_noise: float = 0.0
    """Standard deviation of noise on every read of a perturbed cost."""
    update_noise: float = 0.0
    """Standard deviation of noise on every parameter at every update."""
    defects: float = 0.0
    """Spread of the sigmoids' slopes, heights and shifts from unit to unit, and from copy to copy."""


def build_parity(settings: ParitySettings, splits: Splits) -> Experiment:
    """Build the population under the rule, which notes when each network has solved the task."""
    import torch
    from torch import nn

    from beyondprop.data import Statistics
    from beyondprop.layers.defective_activation import DefectiveActivation
    from beyondprop.networks.population import Population
    from beyondprop.rules.perturbation.solving import NotingAnalogMGD, NotingMGD

    bits = splits.train.images.shape[1]

    def sigmoid(units: int) -> nn.Module:
        return DefectiveActivation(nn.Sigmoid(), (units,), settings.defects) if settings.defects else nn.Sigmoid()

    def make() -> nn.Module:
        network = nn.Sequential(
            nn.Linear(bits, settings.hidden), sigmoid(settings.hidden), nn.Linear(settings.hidden, 1), sigmoid(1)
        )
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
        return network

    statistics = Statistics.of(splits.train)
    patterns = ((splits.test.images - statistics.mean) / statistics.std).float()
    options: dict[str, Any] = {
        name: getattr(settings, name) for name in ("code", "norm", "tau_x", "tau_p", "cost_noise", "copies")
    }
    if settings.analog:
        options |= {"tau_theta": settings.tau_theta, "tau_hp": settings.tau_hp}
    else:
        options |= updates(settings)
    kind = NotingAnalogMGD if settings.analog else NotingMGD
    rule = kind(Population(make, settings.copies), patterns, splits.test.labels, **options)

    def measures(_batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        solved, when = rule.solved(), rule.solved_at[rule.solved_at >= 0].double()
        found = {"solved_fraction": float(solved.double().mean())}
        return found | ({"steps_to_solve": float(when.median())} if len(when) else {})

    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=settings.learning_rate)
    return with_update_noise(Experiment(rule, measures=measures, optimizer=optimizer), settings.update_noise)


def build_layerwise(settings: LayerwiseSettings, splits: Splits) -> Experiment:
    """Build the network under perturbation of one layer at a time."""
    from beyondprop.rules.perturbation.layerwise import LayerwisePerturbation

    network, _ = make_network(settings, splits.train.images.shape[1:], splits.train.classes)
    names = ("perturb", "steps", "norm", "normalise", "cost_noise")
    rule = LayerwisePerturbation(network, **{name: getattr(settings, name) for name in names})
    return with_update_noise(Experiment(rule, optimizer=make_optimizer(rule, settings)), settings.update_noise)


def build_multiplexed(settings: MultiplexedSettings, splits: Splits) -> Experiment:
    """Build the network under multiplexed gradient descent."""
    from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent

    network, _ = make_network(settings, splits.train.images.shape[1:], splits.train.classes)
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("code", "norm", "tau_x", "cost_noise")}
    rule = MultiplexedGradientDescent(network, **options, **updates(settings))
    return with_update_noise(Experiment(rule, optimizer=make_optimizer(rule, settings)), settings.update_noise)


def updates(settings: Any) -> dict[str, Any]:
    """Read from settings what `MultiplexedGradientDescent` calls None where it is 0; whole numbers as such."""
    clamp, tau_theta = settings.clamp or None, settings.tau_theta or None
    if tau_theta is not None and tau_theta == int(tau_theta):
        tau_theta = int(tau_theta)
    return {"tau_theta": tau_theta, "clamp": clamp}


def with_update_noise(experiment: Experiment, deviation: float) -> Experiment:
    """Disturb what the experiment's optimizer does, which has to be one of its own."""
    from beyondprop.errors import UserError
    from beyondprop.rules.perturbation.update_noise import add_update_noise

    if deviation:
        if experiment.optimizer is None:
            raise UserError("update noise needs an optimizer of the experiment's own: choose adam, rmsprop, sgd or nag")
        add_update_noise(experiment.optimizer, deviation)
    return experiment


PARITY_CHOICES = (
    "accuracy of the networks' mean answer (solved_fraction counts networks)",
    "inputs of mean 0 and deviation 1",
    "Adam",
    "patterns in random batches of four",
)
SCALING = "arXiv 2501.15403, the repository's runs of 1e7 steps: best test accuracy, median of ten seeds"


def layerwise(
    variant: str, summary: str, settings: LayerwiseSettings, published: Published, choices: tuple[str, ...]
) -> Recipe:
    """Make a recipe of the perturbation of one layer at a time."""
    return Recipe(
        f"mgd/{variant}",
        summary,
        variant.removesuffix("-weights"),
        settings,
        build_layerwise,
        lambda _settings: published,
        lambda _settings: choices,
    )


FASHION = LayerwiseSettings(
    network="tanh-vgg",
    hidden=8,
    optimizer="adam",
    weight_decay=0.0,
    batch_size=100,
    epochs=2,
    steps=10,
    learning_rate=3e-3,
)
SMALL = LayerwiseSettings(
    network="small-conv",
    hidden=64,
    activation="relu",
    optimizer="adam",
    weight_decay=0.0,
    batch_size=100,
    epochs=1,
    learning_rate=3e-3,
)
PARITIES = (
    Recipe(
        "mgd/xor",
        "a hundred networks 2-4-1 learn exclusive or in one run",
        "xor",
        ParitySettings(),
        build_parity,
        choices=lambda _settings: (
            *PARITY_CHOICES,
            "four hidden units (the paper's two often stay in a local minimum)",
        ),
    ),
    Recipe(
        "mgd/xor-analog",
        "a hundred networks 2-4-1 learn exclusive or with filters in the place of counters",
        "xor",
        ParitySettings(analog=True, epochs=15, tau_x=8, tau_theta=4.0, learning_rate=0.02),
        build_parity,
        choices=lambda _settings: (*PARITY_CHOICES, "four hidden units"),
    ),
    Recipe(
        "mgd/parity-4",
        "a hundred networks 4-8-1 learn the parity of four bits in one run",
        "parity-4",
        ParitySettings(hidden=8, epochs=150, batch_size=16, tau_x=8),
        build_parity,
        choices=lambda _settings: (
            *PARITY_CHOICES[:3],
            "random batches of sixteen",
            "eight hidden units (the paper has four)",
        ),
    ),
)
READING = MultiplexedSettings(
    epochs=5, hidden=4, depth=1, activation="sigmoid", optimizer="adam", weight_decay=0.0, learning_rate=1e-2
)
LETTERS = Recipe(
    "mgd/nist7x7",
    "a perceptron 49-4-4 reads the letters N, I, S and T in 7x7 pixels",
    "nist7x7",
    READING,
    build_multiplexed,
    choices=lambda _settings: (
        "letters of our own drawing",
        "a tenth of the images for testing (the paper tests on all that it trains on)",
        "cross-entropy, no sigmoid at the output",
        "Adam, one-cycle schedule",
    ),
)
FASHION_CHOICES = ("Adam, one-cycle schedule", "fewer steps")
LAYERWISE = (
    layerwise(
        "fashion-mnist",
        "a convolutional network of 28,674 parameters on Fashion-MNIST, its nodes perturbed",
        FASHION,
        Published({"test_accuracy": 0.915}, SCALING),
        FASHION_CHOICES,
    ),
    layerwise(
        "fashion-mnist-weights",
        "a convolutional network of 28,674 parameters on Fashion-MNIST, its weights perturbed",
        replace(FASHION, perturb="weights"),
        Published({"test_accuracy": 0.905}, SCALING),
        FASHION_CHOICES,
    ),
    layerwise(
        "cifar-10",
        "a convolutional network of 26,154 parameters on CIFAR-10, its nodes perturbed",
        SMALL,
        Published({"test_accuracy": 0.607}, "arXiv 2303.03986, as a survey quotes it"),
        ("nodes of one layer at a time (the paper: all weights at once)", *FASHION_CHOICES),
    ),
)
BASELINES = (
    baseline(LETTERS, 1e-2),
    baseline(replace(LETTERS, settings=replace(READING, depth=0)), 1e-2, name="nist7x7-linear"),
    replace(
        baseline(LAYERWISE[0], 3e-3, epochs=10, published=Published({"test_accuracy": 0.916}, SCALING)),
        choices=lambda _settings: ("AdamW, one-cycle schedule", "fewer steps"),
    ),
    baseline(LAYERWISE[2], 3e-3, epochs=10),
)
RECIPES = (
    Recipe(
        "mgd/digits",
        "a perceptron with one hidden layer of 32 units on scikit-learn's digits",
        "digits",
        MultiplexedSettings(epochs=10, batch_size=64, hidden=32, depth=1, learning_rate=1e-2),
        build_multiplexed,
    ),
    *PARITIES,
    LETTERS,
    *LAYERWISE,
)
