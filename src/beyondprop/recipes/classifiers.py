"""Settings of the plain classifiers on which rules are compared, and the recipes that every such rule has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from beyondprop.recipe import Experiment, Published, Recipe, Schedule, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from beyondprop.data import Splits
    from beyondprop.rule import Rule


NetworkName = Literal[
    "mlp",
    "conv",
    "cascade",
    "channels",
    "vgg8b",
    "local-fields",
    "rows",
    "small-conv",
    "tanh-vgg",
    "deep-mlp",
    "deep-mlp-frozen",
    "pooled-conv",
    "elu-vgg",
    "elu-vgg-small",
    "elu-lenet",
]
Activation = Literal["tanh", "relu", "leaky-relu", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings):
    """A network that classifies images, and an optimizer."""

    epochs: int = 10
    lr_schedule: Schedule = "one-cycle"
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "nag"] = "adamw"
    """All but AdamW add weight decay to the gradient; nag is SGD with Nesterov's momentum, sgd has none."""
    momentum: float = 0.9
    """Of nag."""
    network: NetworkName = "mlp"
    """A multilayer perceptron; or conv 5x5 (32) - pool - linear - linear; or blocks of conv 3x3 - ReLU - pool - BN
    (cascade: 32, 128, 512; channels: 20, 80, 240, 480); or VGG8b; or layers of the image's size with local receptive
    fields of 11x11; or a recurrent network over the rows; or three times conv 3x3 - ReLU - pool (small-conv: 16, 32,
    `hidden`); or three times conv 3x3 - tanh - conv 3x3 - tanh - pool and two hidden linear layers (tanh-vgg: `hidden`,
    twice and four times that); or a perceptron of tanh drawn by Xavier's normal distribution (deep-mlp), of which only
    the first layer is trained (deep-mlp-frozen), or convolutions with overlapping pools drawn so (pooled-conv);
    or blocks of conv 3x3 - ELU - pool (elu-vgg: 128, 128, 256, 256, 512; elu-vgg-small: 16, 32), or two of conv 5x5
    and two linear layers (elu-lenet)."""
    hidden: int = 1000
    """Width of the perceptron's hidden layers, and of conv's; of the recurrent state."""
    depth: int = 2
    """Hidden layers of the perceptron, or layers with local fields."""
    activation: Activation = "tanh"
    """Of the perceptron and of conv."""
    batch_norm: bool = False
    """In the perceptron's hidden layers."""
    dropout: float = 0.0
    """In the perceptron's hidden layers, and in vgg8b."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(NetworkSettings):
    """Settings of the networks on which all rules are compared."""


S = TypeVar("S", bound=ClassifierSettings)


def make_network(settings: NetworkSettings, image: Sequence[int], classes: int) -> tuple[nn.Module, Tensor]:
    """Make the classifier, and one batch as an example of its input.

    Args:
        settings: Which network.
        image: Channels, height and width.
        classes: Scores a sample.
    """
    import torch

    from beyondprop.networks import cascaded_forward, classifiers, l_drl, local_fields, multiplexed, recurrent, vgg

    channels, height, width = (int(size) for size in image)
    size, hidden, kind = (channels, height, width), settings.hidden, settings.activation
    network: nn.Module
    if settings.network == "mlp":
        network = classifiers.perceptron(
            size,
            classes,
            hidden=hidden,
            depth=settings.depth,
            activation=kind,
            batch_norm=settings.batch_norm,
            dropout=settings.dropout,
        )
    elif settings.network == "conv":
        network = classifiers.convolutional(size, classes, hidden=hidden, activation=kind)
    elif settings.network in ("cascade", "channels"):
        widths = {} if settings.network == "cascade" else {"widths": (20, 80, 240, 480)}
        network = cascaded_forward.cascade(size, classes, **widths)
    elif settings.network == "vgg8b":
        network = vgg.vgg8b(size, classes, dropout=settings.dropout)
    elif settings.network == "small-conv":
        network = multiplexed.small_convolutional(size, classes, widths=(16, 32, hidden))
    elif settings.network == "tanh-vgg":
        network = multiplexed.tanh_vgg(size, classes, width=hidden)
    elif settings.network in ("deep-mlp", "deep-mlp-frozen"):
        network = classifiers.deep_perceptron(size, classes, hidden=hidden, depth=settings.depth)
        if settings.network == "deep-mlp-frozen":
            first = next(child for child in network if any(True for _ in child.parameters()))
            network.requires_grad_(False)
            first.requires_grad_(True)
    elif settings.network == "pooled-conv":
        network = classifiers.pooled_convolutional(size, classes, hidden=hidden)
    elif settings.network in l_drl.NETWORKS:
        network = l_drl.NETWORKS[settings.network](size, classes)
    elif settings.network == "rows":
        network = recurrent.RowReader(size, classes, hidden=hidden)
    else:
        network = local_fields.local_fields(size, classes, depth=settings.depth)
    return network, torch.zeros(2, *size)


def builder(rule_class: str, **from_settings: str) -> Callable[[Any, Splits], Experiment]:
    """Make the build function of a rule that takes a plain classifier.

    Args:
        rule_class: `module:Class`, as the catalogue names it.
        **from_settings: The rule's own options, each with the name of the settings' field that holds it.
    """

    def build(settings: Any, splits: Splits) -> Experiment:
        import importlib

        module, name = rule_class.split(":")
        network, example = make_network(settings, splits.train.images.shape[1:], splits.train.classes)
        options = {option: getattr(settings, field) for option, field in from_settings.items()}
        kind = getattr(importlib.import_module(module), name)
        rule = kind.for_classifier(network, example, splits.train.classes, **options)
        return Experiment(rule, optimizer=make_optimizer(rule, settings))

    return build


def make_optimizer(rule: Rule, settings: NetworkSettings) -> Optimizer | None:
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
    conv: float | None = None
    """Of the convolutional network on MNIST, where it is not the perceptron's."""

    def of(self, variant: str) -> float:
        """That of a recipe's variant; Fashion-MNIST has MNIST's."""
        conv = self.mnist if self.conv is None else self.conv
        return {"digits": self.digits, "cifar-10": self.cifar_10, "mnist-conv": conv}.get(variant, self.mnist)


def data_of(variant: str) -> str:
    """The data set by whose name a recipe's variant begins, such as `cifar-10` of `cifar-10-sparsemax`."""
    names = ("digits", "fashion-mnist", "mnist", "cifar-100", "cifar-10")
    return next(name for name in names if variant.startswith(name))


def baseline(
    recipe: Recipe,
    rate: float,
    *,
    epochs: int | None = None,
    name: str = "",
    weight_decay: float | None = None,
    published: Published | None = None,
) -> Recipe:
    """Make the recipe of back-propagation end to end through the network of another recipe.

    Args:
        recipe: Its network, data, batches and epochs are taken over.
        rate: Learning rate.
        epochs: Where they are others.
        name: Its variant: by default that of the recipe with the system's id behind it, such as `mnist-ff`.
        weight_decay: Where it is another.
        published: What a paper has for it.
    """
    system, variant = recipe.id.split("/")
    given = {f.name: getattr(recipe.settings, f.name) for f in fields(NetworkSettings)}
    given |= {
        "learning_rate": rate,
        "optimizer": "adamw",
        "lr_schedule": "one-cycle",
        "epochs": epochs or given["epochs"],
    }
    if weight_decay is not None:
        given["weight_decay"] = weight_decay
    return Recipe(
        f"bp/{name or f'{variant}-{system}'}",
        f"end to end, the network of {recipe.id}",
        recipe.dataset,
        NetworkSettings(**given),
        builder("beyondprop.rules.signals.backprop:Backprop"),
        lambda _settings: published,
    )


def row_recipes(
    system: str,
    name: str,
    build: Callable[[Any, Splits], Experiment],
    settings: ClassifierSettings,
    *,
    digits: float,
    mnist: float,
) -> tuple[Recipe, ...]:
    """Make a rule's recipes on a recurrent network that reads images row by row.

    Args:
        system: The system's id.
        name: Of the rule, for the summaries.
        build: Makes the experiment.
        settings: The rule's own; network and epochs are set here.
        digits: Learning rate on the digits.
        mnist: Learning rate on MNIST.
    """
    small = replace(settings, network="rows", epochs=30, hidden=64, learning_rate=digits)
    large = replace(small, epochs=10, hidden=256, learning_rate=mnist)
    return (
        Recipe(f"{system}/digits-rows", f"{name}: a recurrent network over the digits' rows", "digits", small, build),
        Recipe(f"{system}/mnist-rows", f"{name}: a recurrent network over MNIST's rows", "mnist", large, build),
    )


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
        rates: Learning rates.
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
