"""Forward gradients of local losses on LocalMixer, and the rules that the paper sets beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from beyondprop.recipe import Experiment, Published, Recipe, Schedule, Settings

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from beyondprop.data import Splits
    from beyondprop.rule import Rule

Method = Literal["lg-fg-a", "lg-fg-w", "fg-a", "fg-w", "bp", "l-bp", "lg-bp", "fa", "dfa"]
OPTIONS = {
    "lg-fg-a": ("forward-activities", "block+patch+group"),
    "lg-fg-w": ("forward-weights", "block+patch+group"),
    "fg-a": ("forward-activities", "global"),
    "fg-w": ("forward-weights", "global"),
    "bp": ("backprop", "global"),
    "l-bp": ("backprop", "added"),
    "lg-bp": ("backprop", "block"),
}
"""Gradient and losses of `LocalForwardGradient`; FA and DFA are rules of their own."""


@dataclass(frozen=True, kw_only=True)
class LocalMixerSettings(Settings):
    """Settings of a LocalMixer and of the rule that trains it."""

    epochs: int = 200
    batch_size: int = 100
    learning_rate: float = 0.1
    """Of SGD."""
    weight_decay: float = 1e-4
    """Of weights, not of biases; added to the gradient."""
    lr_schedule: Schedule = "linear"
    method: Method = "lg-fg-a"
    """How credit is assigned: forward gradients of activities (-a) or weights (-w), back-propagation (bp), feedback
    alignment (fa) or direct (dfa); with local losses added (l-), or local and greedy ones (lg-)."""
    momentum: float = 0.0
    readout_rate: float = 0.1
    """The readout's learning rate, as a share of the others'."""
    blocks: int = 1
    """Of the network."""
    side: int = 1
    """Patches on a side of the image."""
    channels: int = 512
    """Of a patch's features."""
    groups: int = 16
    """Of channels."""
    scale: float = 0.1
    """Standard deviation of the weights at the beginning."""


def build(settings: LocalMixerSettings, splits: Splits) -> Experiment:
    """Build the network under the rule that the method names."""
    from beyondprop.networks.local_mixer import LocalMixer
    from beyondprop.rules.perturbation.local_forward_gradient import LocalForwardGradient
    from beyondprop.rules.signals.direct_feedback import DFA
    from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment

    image, classes = splits.train.images.shape[1:], splits.train.classes
    network = LocalMixer(
        image,
        classes,
        blocks=settings.blocks,
        side=settings.side,
        channels=settings.channels,
        groups=settings.groups,
        scale=settings.scale,
    )
    rule: Rule
    if settings.method in ("fa", "dfa"):
        kind = FeedbackAlignment if settings.method == "fa" else DFA
        rule = kind(network, splits.train.images[:2].float())
    else:
        gradient, losses = OPTIONS[settings.method]
        rule = LocalForwardGradient(network, gradient=gradient, losses=losses)  # type: ignore[arg-type]
    return Experiment(rule, optimizer=make_optimizer(network, settings))


def make_optimizer(network: nn.Module, settings: LocalMixerSettings) -> Optimizer:
    """Make SGD with the paper's exceptions: the readout's rate, and biases without decay."""
    from torch.optim import SGD

    groups = []
    for readout, share in ((False, 1.0), (True, settings.readout_rate)):
        named = [p for name, p in network.named_parameters() if name.startswith("readout.") == readout]
        for weights, decay in ((True, settings.weight_decay), (False, 0.0)):
            chosen = [p for p in named if (p.ndim > 1) == weights]
            groups.append({"params": chosen, "lr": share * settings.learning_rate, "weight_decay": decay})
    return SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)


ERRORS = {
    "mnist-small": {"bp": 2.66, "l-bp": 2.38, "lg-bp": 2.43, "fa": 2.82, "dfa": 3.31, "fg-w": 9.25, "fg-a": 3.24}
    | {"lg-fg-w": 9.25, "lg-fg-a": 3.24},
    "mnist": {"bp": 2.41, "l-bp": 2.16, "lg-bp": 2.81, "fa": 2.90, "dfa": 3.17, "fg-w": 8.56, "fg-a": 3.76}
    | {"lg-fg-w": 5.66, "lg-fg-a": 2.55},
    "cifar-10": {"bp": 33.62, "l-bp": 30.75, "lg-bp": 33.84, "fa": 39.94, "dfa": 38.80, "fg-w": 55.95, "fg-a": 59.72}
    | {"lg-fg-w": 52.70, "lg-fg-a": 30.68},
}
"""Test error in percent, arXiv 2210.03310, Table 3."""


def recipe(variant: str, summary: str, dataset: str, settings: LocalMixerSettings) -> Recipe:
    """Make a recipe with the paper's figures for its methods, where there are any."""

    def published(chosen: LocalMixerSettings) -> Published | None:
        error = ERRORS.get(variant, {}).get(chosen.method)
        source = f"arXiv 2210.03310, Table 3, {chosen.method.upper()}"
        return None if error is None else Published({"test_accuracy": round(1 - error / 100, 4)}, source)

    return Recipe(
        f"local-forward-gradient/{variant}",
        summary,
        dataset,
        settings,
        build,
        published,
        choices=lambda _settings: ("SGD settings of the authors' code",) if variant in ERRORS else (),
        variants=("method",),
    )


RECIPES = (
    recipe(
        "digits",
        "a LocalMixer of two blocks, four patches and four groups on scikit-learn's digits",
        "digits",
        LocalMixerSettings(epochs=20, batch_size=64, blocks=2, side=2, channels=64, groups=4, learning_rate=1.0),
    ),
    recipe("mnist", "LocalMixer M/1/16 on MNIST", "mnist", LocalMixerSettings()),
    recipe("mnist-small", "LocalMixer S/1/1 on MNIST", "mnist", LocalMixerSettings(channels=256, groups=1)),
    recipe("cifar-10", "LocalMixer M/8/16 on CIFAR-10", "cifar-10", LocalMixerSettings(blocks=4, side=8)),
)
