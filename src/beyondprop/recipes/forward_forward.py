"""Forward-Forward and SymBa: perceptrons on MNIST, Fashion-MNIST and CIFAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Published, Recipe
from beyondprop.recipes.classifiers import Activation, NetworkSettings, baseline, data_of, make_network, make_optimizer

if TYPE_CHECKING:
    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class GoodnessSettings(NetworkSettings):
    """Settings that Forward-Forward and SymBa share."""

    activation: Activation = "relu"
    goodness: Literal["sum", "mean"] = "sum"
    """Of a layer: of the squares of its output."""
    label: Literal["overlay", "pattern", "learned-pattern"] = "overlay"
    """How the class enters: in the first pixels, or as a random (and learned) pattern in a channel of its own."""
    amplitude: float = 3.0
    """Of the first pixels; of the pattern."""
    negatives: Literal["uniform", "hard"] = "uniform"
    """How wrong classes are drawn: all alike, or those that the network takes for true more often."""
    peer: float = 0.0
    """Weight of peer normalisation."""
    skip_first: bool = True
    """Leave the first layer's goodness out when a class is chosen."""
    readout: Literal["scan", "softmax"] = "scan"
    """Try every class, or read a linear classifier of the hidden layers, in one pass."""
    order: Literal["together", "one-by-one"] = "together"
    """Train all layers at every step, or one after another, each for all epochs."""


@dataclass(frozen=True, kw_only=True)
class ForwardForwardSettings(GoodnessSettings):
    """Settings of Forward-Forward."""

    threshold: float = 1.0
    """θ as a mean square of a unit."""


@dataclass(frozen=True, kw_only=True)
class SymBaSettings(GoodnessSettings):
    """Settings of SymBa."""

    goodness: Literal["sum", "mean"] = "mean"
    skip_first: bool = False
    alpha: float = 4.0
    """Scale of the difference of goodness."""
    pair_loss: Literal["softplus", "swish"] = "softplus"
    """Of a pair."""


def build(settings: Any, splits: Splits) -> Experiment:
    """Build the network's hidden layers under either rule."""
    import torch

    from beyondprop.rules.local.forward_forward import ForwardForward
    from beyondprop.rules.local.label_input import ClassPattern, LabelInput, Overlay
    from beyondprop.rules.local.symba import SymBa

    shape, classes = tuple(splits.train.images.shape[1:]), splits.train.classes
    if settings.label == "overlay":
        label: LabelInput = Overlay(classes, amplitude=settings.amplitude)
        network, example = make_network(settings, splits.train.images.shape[1:], classes)
    else:
        learned = settings.label == "learned-pattern"
        label = ClassPattern(classes, shape, learned=learned, scale=settings.amplitude)
        network, _ = make_network(settings, (shape[0] + 1, *shape[1:]), classes)
        example = torch.zeros(2, *shape)
    options = {
        name: getattr(settings, name)
        for name in (
            "goodness",
            "negatives",
            "peer",
            "skip_first",
            "readout",
            "order",
            "threshold",
            "alpha",
            "pair_loss",
        )
        if hasattr(settings, name)
    }
    kind = SymBa if isinstance(settings, SymBaSettings) else ForwardForward
    rule = kind.for_classifier(network, example, classes, label=label, **options)
    return Experiment(rule, optimizer=make_optimizer(rule, settings))


def recipe(
    variant: str, summary: str, settings: GoodnessSettings, published: Published | None = None, *departures: str
) -> Recipe:
    """Make a recipe of the rule that the settings belong to; the variant begins with the data set's name."""
    system = "symba" if isinstance(settings, SymBaSettings) else "ff"
    choices = (*CHOICES, *departures)
    choices += () if settings.label == "overlay" else ("class patterns: our construction",)
    choices += ("mirrored images",) if settings.augment == "flip" else ()
    return Recipe(
        f"{system}/{variant}",
        summary,
        data_of(variant),
        settings,
        build,
        lambda _settings: published,
        lambda _settings: choices,
    )


CHOICES = ("AdamW, one-cycle schedule",)
# In tables that two later papers print alike (arXiv 2303.08418 itself was not to be had).
QUOTED = "arXiv 2303.08418, as DeeperForward (ICLR 2025) quotes it"
SMALL: dict[str, Any] = {"epochs": 30, "hidden": 64, "batch_size": 64, "learning_rate": 1e-2}
DIGITS = "a perceptron with two hidden layers on scikit-learn's digits"

FF = (
    recipe("digits", DIGITS, ForwardForwardSettings(**SMALL)),
    recipe(
        "mnist",
        "the paper's perceptron, four hidden layers of 2000 units, on MNIST",
        ForwardForwardSettings(epochs=60, hidden=2000, depth=4, learning_rate=1e-3),
        Published({"test_accuracy": 0.9864}, "arXiv 2212.13345, Section 3.3"),
        "the class overlaid at three times the amplitude",
    ),
    recipe(
        "mnist-small",
        "two hidden layers of 500 units on MNIST",
        ForwardForwardSettings(epochs=60, hidden=500),
    ),
    recipe(
        "cifar-10",
        "two hidden layers with local receptive fields of 11x11 on CIFAR-10",
        ForwardForwardSettings(epochs=30, network="local-fields"),
        Published({"test_accuracy": 0.59}, "arXiv 2212.13345, Section 4"),
        "active for what is true, where the paper's figure is of networks that are quiet for it",
    ),
)
CIFAR = SymBaSettings(epochs=30, hidden=2000, depth=3, label="learned-pattern", amplitude=1.0, augment="flip")
SYMBA = (
    recipe("digits", DIGITS, SymBaSettings(**SMALL)),
    recipe(
        "mnist-small",
        "two hidden layers of 500 units on MNIST",
        SymBaSettings(epochs=60, hidden=500, learning_rate=3e-3),
    ),
    recipe(
        "mnist",
        "three hidden layers of 2000 units on MNIST",
        SymBaSettings(epochs=60, hidden=2000, depth=3, learning_rate=3e-3),
        Published({"test_accuracy": 0.9858}, QUOTED),
    ),
    recipe(
        "cifar-10",
        "three hidden layers of 2000 units on CIFAR-10",
        CIFAR,
        Published({"test_accuracy": 0.5909}, QUOTED),
    ),
    recipe(
        "cifar-100",
        "three hidden layers of 2000 units on CIFAR-100",
        CIFAR,
        Published({"test_accuracy": 0.2928}, QUOTED),
    ),
)
BASELINES = (
    baseline(FF[1], 1e-3, epochs=20),
    baseline(FF[2], 3e-3, epochs=20),
    baseline(FF[3], 1e-3, epochs=20),
    baseline(SYMBA[2], 1e-3, epochs=20),
    baseline(SYMBA[3], 1e-4, epochs=15),
    baseline(SYMBA[4], 1e-4, epochs=15),
)
