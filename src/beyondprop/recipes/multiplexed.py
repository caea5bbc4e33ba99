"""Multiplexed gradient descent: networks that are evaluated and never differentiated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from beyondprop.recipes.classifiers import NetworkSettings, builder
from beyondprop.recipes.recipe import Experiment, Recipe, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class MultiplexedSettings(NetworkSettings):
    """Settings of multiplexed gradient descent."""

    code: Literal["random", "sequential", "walsh", "sinusoidal"] = "random"
    """How perturbations of the parameters share time."""
    norm: float = 0.1
    """Length of a perturbation of all parameters."""
    tau_x: int = 256
    """Steps for which a batch is presented, each with a perturbation of its own; one update follows."""
    cost_noise: float = 0.0
    """Standard deviation of noise on every read of a perturbed cost."""


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
    code: Literal["random", "sequential", "walsh", "sinusoidal"] = "random"
    """How perturbations of the parameters share time."""
    norm: float = 0.05
    """Length of a perturbation of all parameters."""
    tau_x: int = 1
    """Steps for which a presentation lasts; one update follows."""


def build_parity(settings: ParitySettings, splits: Splits) -> Experiment:
    """Build the population under the rule, which notes when each network has solved the task."""
    import torch
    from torch import nn

    from beyondprop.data import Statistics
    from beyondprop.networks.population import Population
    from beyondprop.rules.perturbation.solving import NotingMGD

    bits = splits.train.images.shape[1]

    def make() -> nn.Module:
        network = nn.Sequential(
            nn.Linear(bits, settings.hidden), nn.Sigmoid(), nn.Linear(settings.hidden, 1), nn.Sigmoid()
        )
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
        return network

    statistics = Statistics.of(splits.train)
    patterns = ((splits.test.images - statistics.mean) / statistics.std).float()
    rule = NotingMGD(
        Population(make, settings.copies),
        patterns,
        splits.test.labels,
        code=settings.code,
        norm=settings.norm,
        tau_x=settings.tau_x,
        copies=settings.copies,
    )

    def measures(_batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        solved, when = rule.solved(), rule.solved_at[rule.solved_at >= 0].double()
        found = {"solved_fraction": float(solved.double().mean())}
        return found | ({"steps_to_solve": float(when.median())} if len(when) else {})

    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=settings.learning_rate)
    return Experiment(rule, measures=measures, optimizer=optimizer)


PARITY_CHOICES = ("inputs of mean 0 and deviation 1", "Adam", "patterns in random batches of four")

BUILD = builder(
    "beyondprop.rules.perturbation.multiplexed:MultiplexedGradientDescent",
    code="code",
    norm="norm",
    tau_x="tau_x",
    cost_noise="cost_noise",
)
RECIPES = (
    Recipe(
        "mgd/digits",
        "a perceptron with one hidden layer of 32 units on scikit-learn's digits",
        "digits",
        MultiplexedSettings(epochs=10, batch_size=64, hidden=32, depth=1, learning_rate=1e-2),
        BUILD,
    ),
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
        "mgd/parity-4",
        "a hundred networks 4-8-1 learn the parity of four bits in one run",
        "parity-4",
        ParitySettings(hidden=8, epochs=150, batch_size=16, tau_x=8),
        build_parity,
        choices=lambda _settings: (
            *PARITY_CHOICES[:2],
            "random batches of sixteen",
            "eight hidden units (the paper has four)",
        ),
    ),
)
