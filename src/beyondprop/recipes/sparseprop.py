"""SparseProp, arXiv 2302.04852: networks with a few percent of their weights, from scratch or from dense ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from beyondprop.errors import UserError
from beyondprop.recipe import Experiment, Recipe
from beyondprop.recipes.classifiers import NetworkSettings, baseline, make_network, make_optimizer

if TYPE_CHECKING:
    from torch import nn

    from beyondprop.data import Splits
    from beyondprop.training.callbacks import Callback


@dataclass(frozen=True, kw_only=True)
class SparsePropSettings(NetworkSettings):
    """Settings of a network that becomes sparse, or is from the start."""

    sparsity: float = 0.95
    """Share of the weights that each sparse layer lacks at the end, from 0 to below 1."""
    how: Literal["gradual", "random", "exchange", "gradient"] = "gradual"
    """Dense at first, then pruned by magnitude little by little and trained on (gradual); or sparse from scratch, by a
    mask drawn at random that stays (random), whose smallest weights are exchanged for random ones (exchange, SET) or
    for those of the largest gradient (gradient, RigL)."""
    dense_share: float = 0.2
    """Of gradual: share of the training that is dense, from 0 to 1."""
    pruned_share: float = 0.7
    """Share of the training after which no weight goes or comes, from 0 to 1."""
    every: int = 100
    """Steps from one pruning or exchange to the next."""
    fraction: float = 0.3
    """Of exchange and gradient: share of a layer's weights that the first exchange takes."""
    dense_ends: int = 1
    """So many layers at the beginning and at the end stay dense."""


def build(settings: SparsePropSettings, splits: Splits) -> Experiment:
    """Build the network with its sparse layers, and the schedule by which their weights go and come."""
    from beyondprop.layers.sparse import to_sparse
    from beyondprop.rules.signals.sparseprop import SparseProp, outer_layers, random_masks

    if settings.ema:
        raise UserError("an average of the weights cannot follow weights that come and go: leave --ema out")
    network, _ = make_network(settings, splits.train.images.shape[1:], splits.train.classes)
    if settings.how == "gradual":
        network = to_sparse(network, outer_layers(network, settings.dense_ends))
    else:
        network = random_masks(network, settings.sparsity, settings.dense_ends)
    rule = SparseProp(network)
    steps = settings.epochs * -(-len(splits.train.images) // settings.batch_size)
    callbacks = _callbacks(settings, network, steps)
    return Experiment(
        rule,
        measures=lambda _batches: {"surviving_weights": _survivors(network)},
        optimizer=make_optimizer(rule, settings),
        callbacks=callbacks,
    )


def _survivors(network: nn.Module) -> float:
    """Share of the weights of linear and convolution layers, dense and sparse, that are left."""
    from beyondprop.layers.sparse import SparseLayer
    from beyondprop.layers.sparse.pruning import prunable_layers

    layers = prunable_layers(network).values()
    total = sum(layer.mask.numel() if isinstance(layer, SparseLayer) else layer.weight.numel() for layer in layers)
    return sum(layer.weight.numel() for layer in layers) / total


def _callbacks(settings: SparsePropSettings, network: nn.Module, steps: int) -> tuple[Callback, ...]:
    """Make the schedule of a training of about so many steps."""
    from beyondprop.layers.sparse import DynamicSparseTraining, GradualPruning
    from beyondprop.rules.signals.sparseprop import outer_layers

    end = max(2, round(settings.pruned_share * steps))
    if settings.how == "random":
        return ()
    if settings.how == "gradual":
        begin = min(end - 1, round(settings.dense_share * steps))
        skip = outer_layers(network, settings.dense_ends)
        return (GradualPruning(network, settings.sparsity, begin=begin, end=end, every=settings.every, skip=skip),)
    growth: Literal["random", "gradient"] = "gradient" if settings.how == "gradient" else "random"
    return (DynamicSparseTraining(network, end=end, every=settings.every, fraction=settings.fraction, growth=growth),)


def choices(settings: SparsePropSettings) -> tuple[str, ...]:
    """Name what is settled where the paper has other networks."""
    ends = {0: "no layer", 1: "the first and the last layer"}.get(settings.dense_ends, "outer layers")
    return ("a network and data set of our own (the paper: ResNets and BERT on larger ones)", f"{ends} stay dense")


DIGITS = SparsePropSettings(
    epochs=15, hidden=64, activation="relu", sparsity=0.8, every=10, learning_rate=1e-2, lr_schedule="one-cycle"
)
MNIST = replace(DIGITS, hidden=1000, sparsity=0.95, every=100, epochs=10, learning_rate=1e-3)
CIFAR = replace(MNIST, network="cascade", epochs=5, learning_rate=3e-3)


def recipe(variant: str, summary: str, settings: SparsePropSettings) -> Recipe:
    """Make one recipe; the variant begins with the name of its data set."""
    data = "cifar-10" if variant.startswith("cifar-10") else variant.split("-", maxsplit=1)[0]
    return Recipe(f"sparseprop/{variant}", summary, data, settings, build, choices=choices, variants=("sparsity",))


PERCEPTRON = recipe("mnist-95", "a perceptron on MNIST, its inner layer dense at first and pruned to 5 %", MNIST)
CONVOLUTIONAL = recipe(
    "cifar-10-95", "convolutions on CIFAR-10, the inner ones dense at first and pruned to 5 %", CIFAR
)
RECIPES = (
    recipe("digits", "a perceptron on scikit-learn's digits, its inner layer pruned to a fifth", DIGITS),
    PERCEPTRON,
    recipe(
        "mnist-95-scratch",
        "a perceptron on MNIST, its inner layer with 5 % from the start, the smallest exchanged",
        replace(MNIST, how="exchange"),
    ),
    CONVOLUTIONAL,
    recipe(
        "cifar-10-95-scratch",
        "convolutions on CIFAR-10, the inner ones with 5 % from the start, the smallest exchanged",
        replace(CIFAR, how="exchange"),
    ),
)
BASELINES = (
    baseline(PERCEPTRON, 3e-3, name="mnist-sparseprop"),
    baseline(CONVOLUTIONAL, 3e-3, name="cifar-10-sparseprop"),
)
