"""What all of NoProp's recipes share, and its back-propagation baseline: embeddings, blocks, the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Published, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beyondprop.data import ImageSet
    from beyondprop.rules.local.noprop import ClassEmbedding, NoPropCT, NoPropFM


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings):
    """Settings of the paper's networks, which all NoProp variants and the back-propagation baseline share."""

    embedding: Literal["one-hot", "learned", "prototype"] = "one-hot"
    """What is diffused: fixed one-hot rows, a learned table, or learned rows that start as a training image."""
    dim: int = 20
    """Dimension of a learned embedding."""
    first_width: int = 32
    """Channels of the first convolution; the next two have twice and four times as many."""
    hidden: int = 256
    """Width of the linear layers."""
    dropout: float = 0.2
    """After each convolution."""
    encoder: Literal["paper", "residual"] = "paper"
    """What reads the image: the paper's three convolutions, or residual stages with batch norm."""
    encoder_width: int = 64
    """Channels of the residual encoder's first stage; the next two have twice and four times as many."""


@dataclass(frozen=True, kw_only=True)
class TimedSettings(NetworkSettings):
    """Settings that NoProp-CT and NoProp-FM share: one block for all times, and how many steps it takes to predict."""

    draws: int = 1
    """Times and noises drawn for each image of a batch; its encoding is shared."""
    consistency: float = 0.0
    """Weight of a term that makes answers agree along the way from noise to label."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam adds weight decay to the gradient, as in the paper; AdamW takes it from the weights."""
    steps: int = 20
    """At inference: from noise to label; the paper takes 1000."""
    start: Literal["zero", "noise"] = "zero"
    """At inference: z_0 is its mean, or drawn as in the paper."""


@dataclass(frozen=True, kw_only=True)
class BlockSettings(NetworkSettings):
    """Settings of a network of T blocks, trained by NoProp or, as its baseline, by back-propagation."""

    steps: int = 10
    """T, the number of blocks."""


def make_embedding(settings: NetworkSettings, train: ImageSet) -> ClassEmbedding:
    """Make W_Embed as the settings say; prototypes are taken from the training images."""
    from beyondprop.rules.local.noprop import ClassEmbedding

    if settings.embedding == "one-hot":
        return ClassEmbedding.one_hot(train.classes)
    if settings.embedding == "learned":
        return ClassEmbedding.orthogonal(train.classes, settings.dim)
    return ClassEmbedding.prototype(train.images, train.labels, train.classes)


def make_encoder(settings: NetworkSettings, image_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Make what reads images of (channels, height, width), and count its features."""
    from beyondprop.networks.noprop import paper_encoder
    from beyondprop.networks.residual import residual_encoder

    if settings.encoder == "residual":
        return residual_encoder(image_shape[0], settings.encoder_width), 4 * settings.encoder_width
    return paper_encoder(image_shape, _widths(settings), settings.dropout)


def make_blocks(settings: BlockSettings, train: ImageSet, embedding: ClassEmbedding) -> nn.ModuleList:
    """Make the T blocks of Figure 6 for the data set's images."""
    from beyondprop.networks.noprop import denoising_blocks

    image_shape = tuple(train.images.shape[1:])
    return denoising_blocks(
        settings.steps,
        image_shape,
        embedding,
        widths=_widths(settings),
        hidden=settings.hidden,
        dropout=settings.dropout,
        make_encoder=lambda: make_encoder(settings, image_shape),
    )


def make_timed_network(
    settings: NetworkSettings, train: ImageSet, embedding: ClassEmbedding
) -> tuple[nn.Module, nn.Module]:
    """Make the encoder and the block for all times of NoProp-CT and NoProp-FM."""
    from beyondprop.networks.noprop import timed_network

    encoder, features = make_encoder(settings, tuple(train.images.shape[1:]))
    return timed_network(
        encoder, features, embedding, widths=_widths(settings), hidden=settings.hidden, dropout=settings.dropout
    )


def _widths(settings: NetworkSettings) -> tuple[int, int, int]:
    return settings.first_width, 2 * settings.first_width, 4 * settings.first_width


def published(table: dict[str, float]) -> Callable[[NetworkSettings], Published]:
    """Look up the paper's test accuracy by the embedding of the settings."""
    return lambda settings: Published({"test_accuracy": table[settings.embedding]}, "arXiv 2503.24322v1, Table 1")


def block_choices(settings: NetworkSettings) -> tuple[str, ...]:
    """Name what is settled for the blocks, by whichever rule they are trained, where the paper is silent."""
    prototypes = ("prototypes centred, root-mean-square length 1",) if settings.embedding == "prototype" else ()
    convolutions = "convolutions padded by 1" if settings.encoder == "paper" else "residual image encoder"
    return (convolutions, "head starts as the nearest embedding", *prototypes)


def timed_choices(settings: TimedSettings) -> tuple[str, ...]:
    """Name what NoProp-CT and NoProp-FM settle alike where the paper is silent."""
    return (*block_choices(settings), "times evenly spread over a batch")


# Of NoProp-CT and NoProp-FM: what only tells how they predict, and what the paper itself varies.
INFERENCE = ("steps", "method", "grid", "start")
VARIANTS = ("embedding", *INFERENCE)

STEP_COUNTS = (1, 2, 3, 5, 10, 20, 50, 1000)


def timed_experiment(settings: TimedSettings, rule: NoPropCT | NoPropFM, inference: dict[str, Any]) -> Experiment:
    """Make the experiment of NoProp-CT or NoProp-FM: its optimizer, its inference, its accuracy against steps."""
    import torch

    inference = {"steps": settings.steps, "start": settings.start, **inference}
    optimizer = None
    if settings.optimizer == "adam":
        optimizer = torch.optim.Adam(
            rule.parameter_groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    return Experiment(
        rule,
        inference,
        measures=lambda batches: accuracy_by_steps(rule, inference, batches),
        optimizer=optimizer,
    )


def accuracy_by_steps(
    rule: NoPropCT | NoPropFM, inference: dict[str, Any], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """Measure what few steps cost: `test_accuracy_in_N_steps`, in 0..1, otherwise by the given inference."""
    correct, count = dict.fromkeys(STEP_COUNTS, 0), 0
    for x, y in batches:
        for steps in STEP_COUNTS:
            correct[steps] += int((rule(x, **(inference | {"steps": steps})).argmax(dim=1) == y).sum())
        count += len(y)
    return {f"test_accuracy_in_{steps}_steps": hits / count for steps, hits in correct.items()}
