"""Settings of the plain classifiers on which rules are compared, and the recipes that every such rule has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from beyondprop.recipes.recipe import Experiment, Recipe, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from beyondprop.data import Splits
    from beyondprop.rule import Rule


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(Settings):
    """A perceptron or a small convolutional network."""

    epochs: int = 10
    lr_schedule: Literal["constant", "one-cycle", "cosine"] = "one-cycle"
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "nag"] = "adamw"
    """All but AdamW add weight decay to the gradient; nag is SGD with Nesterov's momentum, sgd has none."""
    momentum: float = 0.9
    """Of nag."""
    network: Literal["mlp", "conv"] = "mlp"
    """A multilayer perceptron, or conv 5x5 (32) - pool - linear - linear."""
    hidden: int = 1000
    """Width of hidden layers."""
    depth: int = 2
    """Hidden layers of the perceptron."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Of hidden layers and convolutions."""


S = TypeVar("S", bound=ClassifierSettings)


def make_network(settings: ClassifierSettings, splits: Splits) -> tuple[nn.Module, Tensor]:
    """Make the classifier, and one batch as an example of its input."""
    import torch

    from beyondprop.networks.classifiers import convolutional, perceptron

    channels, height, width = (int(size) for size in splits.train.images.shape[1:])
    image, classes, hidden, kind = (channels, height, width), splits.train.classes, settings.hidden, settings.activation
    network = (
        convolutional(image, classes, hidden=hidden, activation=kind)
        if settings.network == "conv"
        else perceptron(image, classes, hidden=hidden, depth=settings.depth, activation=kind)
    )
    return network, torch.zeros(2, *image)


def builder(rule_class: str, **from_settings: str) -> Callable[[Any, Splits], Experiment]:
    """Make the build function of a rule that takes a plain classifier.

    Args:
        rule_class: `module:Class`, as the catalogue names it.
        **from_settings: The rule's own options, each with the name of the settings' field that holds it.
    """

    def build(settings: Any, splits: Splits) -> Experiment:
        import importlib

        module, name = rule_class.split(":")
        network, example = make_network(settings, splits)
        options = {option: getattr(settings, field) for option, field in from_settings.items()}
        kind = getattr(importlib.import_module(module), name)
        rule = kind.for_classifier(network, example, splits.train.classes, **options)
        return Experiment(rule, optimizer=make_optimizer(rule, settings))

    return build


def make_optimizer(rule: Rule, settings: ClassifierSettings) -> Optimizer | None:
    """Make the optimizer that the settings name; None for AdamW, which a training makes by itself."""
    from torch.optim import SGD, Adam, RMSprop

    groups, rate, decay = rule.parameter_groups(), settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(groups, lr=rate, weight_decay=decay)
    if settings.optimizer == "nag":
        return SGD(groups, lr=rate, weight_decay=decay, momentum=settings.momentum, nesterov=True)
    if settings.optimizer == "rmsprop":
        return RMSprop(groups, lr=rate, weight_decay=decay)
    return Adam(groups, lr=rate, weight_decay=decay) if settings.optimizer == "adam" else None


class Rates(NamedTuple):
    """Learning rates that were best on images held out of training: `benchmarks/results/signals_tuning.json`."""

    digits: float
    mnist: float
    cifar_10: float

    def of(self, data: str) -> float:
        """That of a data set; Fashion-MNIST has MNIST's."""
        return {"digits": self.digits, "cifar-10": self.cifar_10}.get(data, self.mnist)


DATA = {"mnist": "MNIST", "mnist-conv": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar-10": "CIFAR-10"}


def comparison_recipes(
    system: str,
    name: str,
    build: Callable[[Any, Splits], Experiment],
    settings: S,
    rates: Rates,
    *,
    suffix: str = "",
) -> tuple[Recipe, ...]:
    """Make a rule's recipes on the networks that all rules share.

    Args:
        system: The system's id.
        name: Of the rule, for the summaries.
        build: Makes the experiment.
        settings: The rule's own; networks and epochs are set here.
        rates: Learning rates of the perceptrons; the convolutional network has MNIST's.
        suffix: Of the perceptrons' variants, where a system has other recipes of these names.
    """
    small = replace(settings, epochs=15, hidden=64, learning_rate=rates.digits)
    recipes = [Recipe(f"{system}/digits{suffix}", f"{name} on scikit-learn's digits", "digits", small, build)]
    for variant, data in DATA.items():
        conv = variant.endswith("-conv")
        own = replace(
            settings,
            learning_rate=rates.of(variant),
            network="conv" if conv else "mlp",
            epochs=5 if conv else settings.epochs,
        )
        kind = "a small convolutional network" if conv else "a perceptron with two hidden layers"
        recipes.append(
            Recipe(
                f"{system}/{variant}{'' if conv else suffix}",
                f"{name}: {kind} on {data}",
                variant.removesuffix("-conv"),
                own,
                build,
            )
        )
    return tuple(recipes)
