"""What all of NoProp's recipes share, and its back-propagation baseline: embeddings, blocks, the paper's figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from beyondprop.recipes.recipe import Published, Settings

if TYPE_CHECKING:
    from torch import nn

    from beyondprop.data import ImageSet
    from beyondprop.rules.local.noprop import ClassEmbedding


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


def make_blocks(settings: BlockSettings, train: ImageSet, embedding: ClassEmbedding) -> nn.ModuleList:
    """Make the T blocks of Figure 6 for the data set's images."""
    from beyondprop.networks.noprop import denoising_blocks

    return denoising_blocks(
        settings.steps,
        tuple(train.images.shape[1:]),
        embedding,
        widths=(settings.first_width, 2 * settings.first_width, 4 * settings.first_width),
        hidden=settings.hidden,
        dropout=settings.dropout,
    )


def published(table: dict[str, float]) -> Callable[[NetworkSettings], Published]:
    """Look up the paper's test accuracy by the embedding of the settings."""
    return lambda settings: Published({"test_accuracy": table[settings.embedding]}, "arXiv 2503.24322v1, Table 1")


def block_choices(settings: NetworkSettings) -> tuple[str, ...]:
    """Name what is settled for the blocks, by whichever rule they are trained, where the paper is silent."""
    prototypes = ("prototypes centred, root-mean-square length 1",) if settings.embedding == "prototype" else ()
    return ("convolutions padded by 1", "head starts as the nearest embedding", *prototypes)
