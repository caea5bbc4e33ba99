"""Forward-Forward and SymBa: perceptrons on MNIST, Fashion-MNIST and CIFAR."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipes.classifiers import NetworkSettings, baseline, make_network, make_optimizer
from beyondprop.recipes.recipe import Experiment, Published, Recipe

if TYPE_CHECKING:
    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class GoodnessSettings(NetworkSettings):
    """Settings that Forward-Forward and SymBa share."""

    activation: Literal["tanh", "relu", "leaky-relu"] = "relu"
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


def small(settings: Any) -> Any:
    """Settings of the digits."""
    return replace(settings, epochs=30, hidden=64, batch_size=64)


FF_SOURCE = "arXiv 2212.13345, Section 3.3: 1.36 % errors after 60 epochs"
FF = (
    Recipe(
        "ff/digits",
        "a perceptron with two hidden layers on scikit-learn's digits",
        "digits",
        replace(ForwardForwardSettings(), epochs=30, hidden=64, batch_size=64, learning_rate=1e-2),
        build,
    ),
    Recipe(
        "ff/mnist",
        "the paper's perceptron, four hidden layers of 2000 units, on MNIST",
        "mnist",
        replace(ForwardForwardSettings(), epochs=60, hidden=2000, depth=4),
        build,
        lambda _settings: Published({"test_accuracy": 0.9864}, FF_SOURCE),
    ),
    Recipe(
        "ff/mnist-small",
        "two hidden layers of 500 units on MNIST",
        "mnist",
        replace(ForwardForwardSettings(), epochs=60, hidden=500),
        build,
    ),
)
SYMBA = (
    Recipe(
        "symba/digits",
        "a perceptron with two hidden layers on scikit-learn's digits",
        "digits",
        replace(SymBaSettings(), epochs=30, hidden=64, batch_size=64, learning_rate=1e-2),
        build,
    ),
    Recipe(
        "symba/mnist-small",
        "two hidden layers of 500 units on MNIST",
        "mnist",
        replace(SymBaSettings(), epochs=60, hidden=500),
        build,
    ),
    Recipe(
        "symba/cifar-10",
        "three hidden layers of 2000 units on CIFAR-10",
        "cifar-10",
        replace(SymBaSettings(), epochs=60, hidden=2000, depth=3, label="learned-pattern", amplitude=1.0),
        build,
    ),
)
BASELINES = ()
