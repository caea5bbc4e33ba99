"""Equilibrium propagation (arXiv 2006.03824), and back-propagation through the same settling network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.errors import UserError
from beyondprop.recipe import Experiment, Published, Recipe, Schedule, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from beyondprop.data import Splits
    from beyondprop.rule import Rule


@dataclass(frozen=True, kw_only=True)
class EquilibriumSettings(Settings):
    """Settings of a network that settles, and of how it is trained."""

    method: Literal["ep", "through-settling", "feed-forward"] = "ep"
    """Equilibrium propagation; back-propagation through the last steps of the free phase of the same network; or plain
    back-propagation through its layers, which then are a feed-forward network."""
    lr_schedule: Schedule = "one-cycle"
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "adam", "sgd"] = "adam"
    """All but AdamW add weight decay to the gradient."""
    momentum: float = 0.9
    """Of sgd."""
    rates: tuple[float, ...] = ()
    """The learning rate of each layer with weights, from the input on, as a multiple of `learning_rate`."""
    network: Literal["perceptron", "convolutional"] = "convolutional"
    """Linear layers; or convolutions, each with a pooling of 2x2, and a linear readout."""
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Widths of the hidden layers, or channels of the convolutions."""
    kernel: int = 3
    """Size of the convolutions."""
    paddings: tuple[int, ...] = (1, 1, 1, 0)
    """Of the convolutions."""
    pool: Literal["max", "average"] = "max"
    activation: Literal["hard-sigmoid", "half-hard-sigmoid", "steep-sigmoid", "tanh"] = "half-hard-sigmoid"
    """clip(x, 0, 1), clip(x/2, 0, 1), 1/(1 + exp(-4(x - 1/2))) or tanh."""
    readout: Literal["softmax", "squared"] = "softmax"
    """Cross-entropy on a readout that is no state; or half the squared error of an output that is one."""
    feedback: Literal["symmetric", "asymmetric"] = "symmetric"
    """Back by the transposed weights, or by weights of their own."""
    same_update: bool = True
    """Of asymmetric feedback: whether it learns by the same update as the weights (Kolen and Pollack)."""
    order: Literal["even-odd", "sequential", "synchronous"] = "even-odd"
    """Which states move at once: every other, one after the other, or all."""
    nudging: Literal["symmetric", "one-sided", "random-sign"] = "symmetric"
    """The estimator: two opposite nudges, one, or one of random sign."""
    beta: float = 0.5
    """Strength of the nudge."""
    free_steps: int = 20
    """T1, steps of the free phase."""
    nudged_steps: int = 5
    """T2, steps of each nudged phase; and the steps that `through-settling` differentiates."""
    tolerance: float = 0.0
    """Residual of every state below which the free phase ends, and a nudged phase below that share of how far the nudge
    has moved the state; 0 takes all steps."""


def make_layers(settings: EquilibriumSettings, image: tuple[int, ...], classes: int) -> nn.Sequential:
    """Make the layers; with a squared readout the output is a state, and has the activation of the others."""
    from torch import nn

    from beyondprop.networks import convergent

    kind = settings.activation
    if settings.network == "perceptron":
        layers = convergent.convergent_perceptron(image, classes, hidden=settings.widths, activation=kind)
    else:
        layers = convergent.convergent_convolutional(
            image,
            classes,
            channels=settings.widths,
            kernel=settings.kernel,
            paddings=settings.paddings,
            pool=settings.pool,
            activation=kind,
        )
    return nn.Sequential(*layers, convergent.ACTIVATIONS[kind]()) if settings.readout == "squared" else layers


def build(settings: EquilibriumSettings, splits: Splits) -> Experiment:
    """Build the network under equilibrium propagation, or one of its baselines."""
    import torch

    from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
    from beyondprop.rules.relaxation.through_settling import BackpropThroughSettling
    from beyondprop.rules.signals.backprop import Backprop

    image = tuple(splits.train.images.shape[1:])
    layers = make_layers(settings, image, splits.train.classes)
    example = torch.zeros(2, *image)
    rule: Rule
    files = None
    if settings.method == "feed-forward":
        if settings.readout != "softmax":
            raise UserError("--method feed-forward takes --readout softmax")
        rule = Backprop(layers)
    else:
        options: dict[str, Any] = {
            "feedback": settings.feedback,
            "readout": settings.readout,
            "order": settings.order,
            "free_steps": settings.free_steps,
            "tolerance": settings.tolerance or None,
        }
        if settings.feedback == "asymmetric":
            options["same_update"] = settings.same_update
        if settings.method == "ep":
            options |= {"beta": settings.beta, "nudging": settings.nudging, "nudged_steps": settings.nudged_steps}
            rule = EquilibriumPropagation.for_classifier(layers, example, splits.train.classes, **options)
            files = partial(settling_files, rule)
        else:
            options["through"] = min(settings.nudged_steps, settings.free_steps)
            rule = BackpropThroughSettling.for_classifier(layers, example, splits.train.classes, **options)
    return Experiment(rule, files=files, optimizer=make_optimizer(rule, layers, settings))


def make_optimizer(rule: Rule, layers: nn.Module, settings: EquilibriumSettings) -> Optimizer:
    """Make the optimizer, with a group for each layer with weights; feedback learns at the rate of its layer."""
    from torch.optim import SGD, Adam, AdamW

    taught = [name for name, module in layers.named_children() if any(True for _ in module.parameters())]
    factors = settings.rates or (1.0,) * len(taught)
    if len(factors) != len(taught):
        raise UserError(f"--rates must be {len(taught)} numbers, one for each layer with weights, not {len(factors)}")
    groups: list[dict[str, Any]] = [
        {"name": f"layer {name}", "params": [], "lr": factor * settings.learning_rate}
        for name, factor in zip(taught, factors, strict=True)
    ]
    place = dict(zip(taught, groups, strict=True))
    for name, parameter in rule.named_parameters():
        place[name.split(".")[-2]]["params"].append(parameter)
    decay = settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(groups, momentum=settings.momentum, weight_decay=decay)
    return {"adam": Adam, "adamw": AdamW}[settings.optimizer](groups, weight_decay=decay)


def settling_files(rule: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, bytes]:
    """Draw and write how the first batch settles in the trained network."""
    import json

    from beyondprop.training.curves import draw_settling

    x, y = next(iter(batches))
    found = rule.settling(x, y)
    numbers = {"names": found.names, "free": found.free, "nudged": found.nudged}
    return {
        "settling.json": (json.dumps(numbers, indent=2) + "\n").encode(),
        "settling.png": draw_settling(found.names, found.free, found.nudged, "How the trained network settles"),
    }


PAPER = {  # by readout, feedback, method and nudging: test error of the paper's abstract
    ("softmax", "symmetric", "ep", "symmetric"): 0.117,
    ("softmax", "asymmetric", "ep", "symmetric"): 0.132,  # where weights and feedback get the same update
    ("squared", "symmetric", "ep", "one-sided"): 0.86,
}


NETWORK = ("network", "widths", "kernel", "paddings", "pool", "activation")


def published(settings: EquilibriumSettings) -> Published | None:
    """The paper's figure for the settings, where its abstract gives one: of its own network, trained as long."""
    error = PAPER.get((settings.readout, settings.feedback, settings.method, settings.nudging))
    apart = settings.feedback == "asymmetric" and not settings.same_update
    other = any(getattr(settings, name) != getattr(CIFAR, name) for name in NETWORK)
    if error is None or apart or other or settings.epochs < CIFAR.epochs:
        return None
    return Published({"test_accuracy": 1 - error}, "abstract")


def choices(settings: EquilibriumSettings) -> tuple[str, ...]:
    """Name what is settled otherwise than in the paper."""
    return (
        "images padded with zeros before they are cropped, normalised by the standard deviation itself",
        f"states moved in {settings.order} order",
        "the cosine ends with the training, at 0",
    )


CIFAR = EquilibriumSettings(
    epochs=120,
    batch_size=128,
    learning_rate=0.25,
    weight_decay=3e-4,
    lr_schedule="cosine",
    augment="crop-flip",
    optimizer="sgd",
    rates=(1.0, 0.6, 0.4, 0.32, 0.2),
    beta=1.0,
    free_steps=250,
    nudged_steps=25,
    order="synchronous",
)
MNIST = EquilibriumSettings(
    epochs=6,
    batch_size=64,
    learning_rate=1e-3,
    widths=(32, 64),
    kernel=5,
    paddings=(0, 0),
    activation="hard-sigmoid",
    free_steps=8,
    nudged_steps=3,
)
PERCEPTRON = replace(
    MNIST,
    epochs=10,
    learning_rate=1e-3,
    network="perceptron",
    widths=(512,),
    activation="steep-sigmoid",
    free_steps=12,
    nudged_steps=4,
)
DIGITS = replace(PERCEPTRON, epochs=15, learning_rate=5e-3, widths=(64, 64), activation="hard-sigmoid")
SETTINGS = {"digits": DIGITS, "mnist": MNIST, "mnist-mlp": PERCEPTRON, "cifar-10": CIFAR}
SUMMARIES = {
    "digits": "two hidden layers on scikit-learn's digits",
    "mnist": "the paper's convolutions 32-64 on MNIST, in few steps",
    "mnist-mlp": "784-512-10 on MNIST",
    "cifar-10": "the paper's four convolutions on CIFAR-10",
}


def _recipe(name: str, variant: str, summary: str, settings: EquilibriumSettings) -> Recipe:
    """One recipe; the paper's figures stand beside its own network alone."""
    dataset = "cifar-10" if variant.startswith("cifar") else variant.split("-", maxsplit=1)[0]
    paper = (published, choices) if variant == "cifar-10" and settings.method == "ep" else ()
    return Recipe(name, summary, dataset, settings, build, *paper)


RECIPES = tuple(
    _recipe(f"ep/{variant}", variant, f"equilibrium propagation: {SUMMARIES[variant]}", settings)
    for variant, settings in SETTINGS.items()
)
THROUGH = "through the last steps of the settling network of"
LAYERS = "end to end through the layers, which do not settle, of"
BASELINES = tuple(
    recipe
    for variant, settings in SETTINGS.items()
    for recipe in (
        _recipe(f"bp/{variant}-ep", variant, f"{THROUGH} ep/{variant}", replace(settings, method="through-settling")),
        _recipe(f"bp/{variant}-ep-layers", variant, f"{LAYERS} ep/{variant}", replace(settings, method="feed-forward")),
    )
)
