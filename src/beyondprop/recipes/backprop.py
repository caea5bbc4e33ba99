"""Back-propagation, the baseline: through NoProp's blocks end to end, and on the networks that rules are compared on.

The first is the baseline of arXiv 2503.24322, eqs. (17)-(19).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from beyondprop.recipe import Experiment, Recipe
from beyondprop.recipes.classifiers import ClassifierSettings, Rates, builder, comparison_recipes, row_recipes
from beyondprop.recipes.noprop.blocks import BlockSettings, block_choices, make_blocks, make_embedding, published
from beyondprop.recipes.recurrent_echo import BASELINES as ECHOED
from beyondprop.recipes.regularized_inversion import BASELINES as THROUGH_TIME
from beyondprop.recipes.sequences import AddingSettings, CopyingSettings, MackeyGlassSettings, SequenceSettings
from beyondprop.recipes.sequences import builder as sequence_builder
from beyondprop.recipes.spike_timing import BASELINES as SPIKING

if TYPE_CHECKING:
    from beyondprop.data import Splits
    from beyondprop.networks.recurrent import Recurrent
    from beyondprop.rule import Rule


@dataclass(frozen=True, kw_only=True)
class BackpropSettings(BlockSettings):
    """Settings of the residual chain of NoProp's blocks, trained by back-propagation."""

    start: Literal["noise", "zero"] = "noise"
    """z_0: drawn as in the paper, in training and inference, or its mean."""


def build(settings: BackpropSettings, splits: Splits) -> Experiment:
    """Build the residual chain of blocks under back-propagation."""
    from beyondprop.networks.noprop import ResidualChain
    from beyondprop.rules.signals.backprop import Backprop

    embedding = make_embedding(settings, splits.train)
    return Experiment(
        Backprop(ResidualChain(make_blocks(settings, splits.train, embedding), embedding, start=settings.start))
    )


def choices(settings: BackpropSettings) -> tuple[str, ...]:
    """Name what is settled where the paper is silent."""
    return (*block_choices(settings), "shares a_t start at 0.5")


def through_time(network: Recurrent, _settings: SequenceSettings) -> Rule:
    """Put back-propagation through all time steps around a sequence network."""
    from torch import nn

    from beyondprop.rules.signals.backprop import Backprop

    return Backprop(network, nn.MSELoss())


VARIANTS = ("embedding",)


# As in recipes/noprop/discrete.py, tuned no more and no less.
LARGE = BackpropSettings(
    epochs=12,
    steps=3,
    encoder="residual",
    batch_size=256,
    learning_rate=3e-3,
    weight_decay=0.05,
    lr_schedule="one-cycle",
    augment="crop-flip",
    ema=0.995,
    start="zero",
)

RECIPES = (
    Recipe(
        "bp/digits",
        "the 10 small blocks of noprop-dt/digits trained end to end on scikit-learn's 8x8 digits",
        "digits",
        BackpropSettings(
            epochs=30, first_width=16, hidden=64, learning_rate=3e-3, lr_schedule="one-cycle", dropout=0.1
        ),
        build,
    ),
    Recipe(
        "bp/mnist",
        "the paper's back-propagation baseline on MNIST",
        "mnist",
        BackpropSettings(epochs=100),
        build,
        published({"one-hot": 0.9946, "learned": 0.9943, "prototype": 0.9944}),
        choices,
        VARIANTS,
    ),
    Recipe(
        "bp/cifar-10",
        "the paper's back-propagation baseline on CIFAR-10",
        "cifar-10",
        BackpropSettings(epochs=150),
        build,
        published({"one-hot": 0.7992, "learned": 0.793, "prototype": 0.7958}),
        choices,
        VARIANTS,
    ),
    Recipe(
        "bp/cifar-100",
        "the paper's back-propagation baseline on CIFAR-100",
        "cifar-100",
        BackpropSettings(epochs=150),
        build,
        published({"one-hot": 0.4585, "learned": 0.4657, "prototype": 0.478}),
        choices,
        VARIANTS,
    ),
    Recipe(
        "bp/cifar-10-large",
        "larger class: the 3 residual blocks of noprop-dt/cifar-10-large trained end to end",
        "cifar-10",
        LARGE,
        build,
        choices=choices,
    ),
    Recipe(
        "bp/cifar-100-large",
        "larger class: the 3 residual blocks of noprop-dt/cifar-100-large trained end to end",
        "cifar-100",
        replace(LARGE, epochs=16),
        build,
        choices=choices,
    ),
    *comparison_recipes(
        "bp",
        "back-propagation",
        builder("beyondprop.rules.signals.backprop:Backprop"),
        ClassifierSettings(),
        Rates(digits=0.01, mnist=0.003, cifar_10=0.001),
        suffix="-mlp",
    ),
    *row_recipes(
        "bp",
        "back-propagation through time",
        builder("beyondprop.rules.signals.backprop:Backprop"),
        ClassifierSettings(),
        digits=0.03,
        mnist=0.003,
    ),
    Recipe(
        "bp/copying",
        "back-propagation through time, the network of node-perturbation/copying",
        "copying",
        CopyingSettings(epochs=30, length=5, delay=1, hidden=12, learning_rate=0.16),
        sequence_builder(through_time),
        data=CopyingSettings.data,
    ),
    Recipe(
        "bp/adding",
        "back-propagation through time, the network of node-perturbation/adding",
        "adding",
        AddingSettings(epochs=30),
        sequence_builder(through_time),
        data=AddingSettings.data,
    ),
    Recipe(
        "bp/mackey-glass",
        "back-propagation through time, the network of node-perturbation/mackey-glass",
        "mackey-glass",
        MackeyGlassSettings(epochs=40, batch_size=25, task="recall"),
        sequence_builder(through_time),
        data=MackeyGlassSettings.data,
    ),
    Recipe(
        "bp/mackey-glass-forecast",
        "back-propagation through time, the network of node-perturbation/mackey-glass-forecast",
        "mackey-glass-forecast",
        MackeyGlassSettings(epochs=40, batch_size=25),
        sequence_builder(through_time),
        data=MackeyGlassSettings.data,
    ),
    *THROUGH_TIME,
    *ECHOED,
    *SPIKING,
)
