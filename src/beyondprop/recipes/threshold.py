"""Threshold networks by convex programs, beside logistic regression and straight-through training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from beyondprop.recipe import Experiment, Published, Recipe, SolverSettings

if TYPE_CHECKING:
    from torch import Tensor

    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class ThresholdSettings(SolverSettings):
    """Settings of a threshold network."""

    batch_size: int = 1000
    method: Literal["margin", "pseudo-inverse", "staircase", "lasso", "exact"] = "margin"
    """How the second of three layers is made: by support vector machines, the pseudo-inverse, or levels along one
    direction; or a network of two layers, by the Lasso over sampled and priced patterns, or over all of them."""
    hidden: int = 5000
    """Random directions: neurons of the first of three layers, or patterns that are sampled first."""
    beta: float = 1e-3
    """Weight decay of a sample."""
    baseline_epochs: int = 0
    """Of straight-through training, by each of four estimators, for each class against the rest; 0 leaves it out."""
    baseline_width: int = 1000
    """Of its first hidden layer; the second one has 100 neurons."""
    logistic: float = 1.0
    """C of logistic regression, its inverse regularisation."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(ThresholdSettings):
    """Settings of the task of a random teacher."""

    baseline_epochs: int = 2000
    """Of straight-through training, by each of four estimators; 0 leaves it out."""
    logistic: float = 0.1
    """C of logistic regression, as the authors have it."""
    samples: int = 100
    """For training."""
    inputs: int = 20
    """Numbers of a sample."""


@dataclass(frozen=True, kw_only=True)
class PairSettings(ThresholdSettings):
    """Settings of two classes of an image set."""

    first: int = 4
    """Class 0."""
    second: int = 9
    """Class 1."""
    samples: int = 3000
    """For training, drawn from those of the two classes."""


def build(settings: ThresholdSettings, splits: Splits) -> Experiment:
    """Make the solver."""
    from beyondprop.solvers.threshold.network import ThresholdNetwork

    network = ThresholdNetwork(
        splits.train.images[0].numel(),
        splits.train.classes,
        method=settings.method,
        hidden=settings.hidden,
        beta=settings.beta,
    )

    def measures(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        from beyondprop.data import Batches

        x, y = next(iter(Batches(splits.train, len(splits.train), shuffle=False)))
        found = {
            "objective": float(network.optimum) / len(x),
            "network_objective": network.objective(x, y) / len(x),
            "duality_gap": float(network.gap) / len(x),
            "searched_gap": float(network.searched_gap) / len(x),
        }
        return found | baselines(settings, (x, y), list(batches))

    return Experiment(network, measures=measures)


def baselines(
    settings: ThresholdSettings, train: tuple[Tensor, Tensor], test: list[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Logistic regression, and straight-through networks: their accuracy on the test split and objective per sample."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from beyondprop.solvers.threshold.straight_through import (
        SURROGATES,
        StraightThroughNetwork,
        fit_straight_through,
    )

    x, y = train[0].flatten(1), train[1]
    test_x, test_y = (torch.cat(parts) for parts in zip(*test, strict=True))
    test_x = test_x.flatten(1)
    logistic = LogisticRegression(C=settings.logistic, max_iter=1000).fit(x.numpy(), y.numpy())
    found = {"logistic_accuracy": float(logistic.score(test_x.numpy(), test_y.numpy()))}
    if not settings.baseline_epochs:
        return found
    beta, classes = settings.beta * len(x), int(y.max()) + 1
    for name in SURROGATES:
        objective, scores = 0.0, []
        for positive in range(classes) if classes > 2 else (1,):  # each against the rest
            signs = 2.0 * (y == positive) - 1
            network = StraightThroughNetwork((x.shape[1], settings.baseline_width, 100), name)  # type: ignore[arg-type]
            with torch.enable_grad():
                fit_straight_through(network, x, signs, beta, epochs=settings.baseline_epochs)
            objective += float(network.objective(x, signs, beta).detach())
            scores.append(network(test_x).detach())
        chosen = torch.stack(scores).argmax(dim=0) if classes > 2 else (scores[0] >= 0).long()
        found[f"straight_through_{name}_accuracy"] = float((chosen == test_y).double().mean())
        found[f"straight_through_{name}_objective"] = objective / len(x)
    return found


def draw_teacher(settings: TeacherSettings, seed: int) -> Splits:
    """Ask another teacher for every seed."""
    from beyondprop.data.binary import tanh_teacher

    return tanh_teacher(settings.samples, settings.inputs, trial=seed)


def draw_pair(settings: PairSettings, seed: int) -> Splits:
    """Draw other training samples for every seed."""
    from beyondprop.data.binary import pair

    return pair("mnist", settings.first, settings.second, samples=settings.samples, trial=seed)


def table(name: str, hidden: int = 2000) -> Recipe:
    """Make the recipe of a table that comes with scikit-learn."""

    def draw(_settings: ThresholdSettings, seed: int) -> Splits:
        from beyondprop.data.binary import table

        return table(name, trial=seed)

    settings = ThresholdSettings(hidden=hidden, baseline_epochs=2000)
    return Recipe(f"threshold/{name}", f"scikit-learn's table {name}", name, settings, build, drawn=draw)


CHOICES = (
    "5000 random directions instead of 1000, and a bias of every neuron",
    "straight-through networks have amplitudes, biases and the convex program's weight decay",
)
RECIPES = (
    Recipe(
        "threshold/digits",
        "three layers to the global optimum on scikit-learn's digits, each class against the rest",
        "digits",
        ThresholdSettings(hidden=3000, method="pseudo-inverse"),
        build,
    ),
    Recipe(
        "threshold/teacher",
        "the authors' task, a random teacher: three layers, margins",
        "tanh-teacher",
        TeacherSettings(),
        build,
        lambda _settings: Published(
            {"test_accuracy": 0.788, "objective": 0.0019979}, "official code, run again for five seeds (Convex-SVM)"
        ),
        lambda _settings: CHOICES,
        drawn=draw_teacher,
    ),
    Recipe(
        "threshold/teacher-pseudo-inverse",
        "the authors' task, a random teacher: three layers, pseudo-inverse",
        "tanh-teacher",
        TeacherSettings(method="pseudo-inverse", baseline_epochs=0),
        build,
        lambda _settings: Published(
            {"test_accuracy": 0.778, "objective": 0.0019979}, "official code, run again for five seeds (Convex-PI)"
        ),
        lambda _settings: CHOICES[:1],
        drawn=draw_teacher,
    ),
    Recipe(
        "threshold/teacher-lasso",
        "the authors' task, a random teacher: two layers, Lasso with priced patterns",
        "tanh-teacher",
        TeacherSettings(method="lasso", hidden=1000, baseline_epochs=0),
        build,
        drawn=draw_teacher,
    ),
    *(table(name) for name in ("breast-cancer", "iris", "wine")),
    Recipe(
        "threshold/mnist-pair",
        "MNIST's 4 and 9: three layers, margins",
        "mnist",
        PairSettings(hidden=6000, baseline_epochs=2000),
        build,
        drawn=draw_pair,
    ),
)
