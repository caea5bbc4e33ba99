"""Layer-local difference reconstruction (arXiv 2201.13415) on convolutional networks, and their baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from beyondprop.recipe import Experiment, Published, Recipe, Schedule
from beyondprop.recipes.classifiers import NetworkName, NetworkSettings, baseline, make_network

if TYPE_CHECKING:
    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class LDRLSettings(NetworkSettings):
    """Settings of layer-local difference reconstruction, by SGD with momentum for the network and the feedback."""

    own_optimizer: ClassVar[bool] = True  # whatever `optimizer` says
    epochs: int = 90
    learning_rate: float = 0.035
    """Of the network: the authors' 0.05 times `target_step`, by which gradients are divided here and not there."""
    weight_decay: float = 1.4e-4
    """Of the network: the authors' 1e-4 over `target_step`."""
    lr_schedule: Schedule = "cosine"
    momentum: float = 0.9
    network: NetworkName = "elu-vgg"
    target_step: float = 0.7
    """How far the output's target stands off, in units of its gradient for one sample."""
    feedback_steps: tuple[int, ...] = (20, 30, 35, 55, 20)
    """Steps of the feedback for one batch, of each layer but the first."""
    noise: tuple[float, ...] = (0.4, 0.4, 0.2, 0.2, 0.08)
    """Standard deviation of what is added to activations, from which the feedback learns, likewise."""
    feedback_rate: tuple[float, ...] = (1e-4, 3.5e-4, 8e-3, 8e-3, 0.18)
    """Learning rate of the feedback, likewise."""


def build(settings: LDRLSettings, splits: Splits) -> Experiment:
    """Build the network under the rule, and SGD with momentum."""
    from torch.optim import SGD

    from beyondprop.rules.signals.l_drl import LDRL

    network, example = make_network(settings, splits.train.images.shape[1:], splits.train.classes)
    rule = LDRL(
        network,
        example,
        target_step=settings.target_step,
        feedback_steps=settings.feedback_steps,
        noise=settings.noise,
        feedback_rate=settings.feedback_rate,
    )
    rate, decay = settings.learning_rate, settings.weight_decay
    return Experiment(
        rule, optimizer=SGD(rule.parameter_groups(), lr=rate, momentum=settings.momentum, weight_decay=decay)
    )


def published(_settings: LDRLSettings) -> Published:
    """The authors' reproduction by their released code."""
    return Published({"test_accuracy": 0.8859}, "github.com/ernoult/scalingDTP, pull request 4")


def choices(_settings: LDRLSettings) -> tuple[str, ...]:
    """Name what differs from the released code."""
    return (
        "the cosine moves the feedback's learning rates too, step by step, and ends with the training",
        "Xavier-normal feedback",
        "images padded with zeros before they are cropped",
    )


SMALL = LDRLSettings(
    epochs=20,
    learning_rate=0.02,
    network="elu-vgg-small",
    feedback_steps=(4, 4),
    noise=(0.2, 0.1),
    feedback_rate=(0.02, 0.05),
)
MNIST = replace(SMALL, epochs=5, feedback_rate=(2e-3, 5e-2))
LENET = replace(
    MNIST,
    network="elu-lenet",
    feedback_steps=(10, 10, 10),
    noise=(0.4, 0.2, 0.1),
    feedback_rate=(5e-4, 1e-2, 5e-2),
)
RECIPES = (
    Recipe("l-drl/digits", "layer-local reconstruction: two convolutions on the digits", "digits", SMALL, build),
    Recipe("l-drl/mnist", "layer-local reconstruction: two convolutions on MNIST", "mnist", MNIST, build),
    Recipe("l-drl/mnist-lenet", "layer-local reconstruction: the paper's LeNet on MNIST", "mnist", LENET, build),
    Recipe(
        "l-drl/cifar-10",
        "layer-local reconstruction: the paper's VGG on CIFAR-10",
        "cifar-10",
        LDRLSettings(augment="crop-flip"),
        build,
        published,
        choices,
    ),
)
RATES = (1e-2, 3e-3, 1e-3, 1e-3)
BASELINES = tuple(baseline(recipe, rate) for recipe, rate in zip(RECIPES, RATES, strict=True))
