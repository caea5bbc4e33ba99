"""The networks of the NoProp paper: its image encoder, its T blocks, and the same blocks trained end to end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from beyondprop.layers.dropout import Dropout
from beyondprop.rules.local.noprop.blocks import DenoisingBlock, TimedBlock
from beyondprop.rules.local.noprop.embedding import ClassEmbedding

WIDTHS = (32, 64, 128)


def image_encoder(channels: int, widths: Sequence[int] = WIDTHS, dropout: float = 0.2) -> nn.Sequential:
    """The convolutions of Figure 6 (arXiv 2503.24322), padding 1, giving a vector a sample.

    The paper pools after ReLU; here ReLU follows the pooling, which gives the same values and gradients from a quarter
    of the elements. The vector is read in channels-last order, which spares a transposition in either direction; the
    linear layer that follows does not care.

    Args:
        channels: Of the images.
        widths: Of the three convolutions.
        dropout: Probability, after each convolution.
    """
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        Dropout(dropout),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        Dropout(dropout),
        nn.Conv2d(second, third, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        Dropout(dropout),
        FlattenChannelsLast(),
    )


def paper_encoder(
    image_shape: Sequence[int], widths: Sequence[int] = WIDTHS, dropout: float = 0.2
) -> tuple[nn.Sequential, int]:
    """Make `image_encoder` for images of (channels, height, width), and count its features."""
    channels, height, width = image_shape
    return image_encoder(channels, widths, dropout), widths[2] * (height // 4) * (width // 4)


class FlattenChannelsLast(nn.Module):
    """(N, C, H, W) to (N, H·W·C): a view where the images are in channels-last memory format."""

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        return images.permute(0, 2, 3, 1).flatten(1)


def denoising_blocks(
    steps: int,
    image_shape: Sequence[int],
    embedding: ClassEmbedding,
    *,
    widths: Sequence[int] = WIDTHS,
    hidden: int = 256,
    dropout: float = 0.2,
    make_encoder: Callable[[], tuple[nn.Module, int]] | None = None,
) -> nn.ModuleList:
    """Make T blocks of Figure 6, left, each with weights of its own.

    Args:
        steps: T.
        image_shape: (channels, height, width) of the input.
        embedding: W_Embed; where its rows are images, z goes through the paper's convolutions too.
        widths: Of these convolutions.
        hidden: Width of the linear layers.
        dropout: Probability, after each of these convolutions.
        make_encoder: Makes one block's image encoder and counts its features; by default `paper_encoder`.
    """

    def block() -> DenoisingBlock:
        encoder, features = make_encoder() if make_encoder else paper_encoder(image_shape, widths, dropout)
        of_label = paper_encoder(embedding.shape, widths, dropout) if embedding.shape else (None, None)
        return DenoisingBlock(
            encoder,
            features,
            embedding.classes,
            embedding.dim,
            hidden=hidden,
            label_encoder=of_label[0],
            label_features=of_label[1],
            label_shape=embedding.shape,
        )

    return nn.ModuleList(block() for _ in range(steps))


def timed_network(
    encoder: nn.Module,
    features: int,
    embedding: ClassEmbedding,
    *,
    widths: Sequence[int] = WIDTHS,
    hidden: int = 256,
    dropout: float = 0.2,
) -> tuple[nn.Sequential, TimedBlock]:
    """Make the network of Figure 6, right, in its two parts: what reads the image, and the block for all times.

    Args:
        encoder: Maps images to `features` numbers, for instance `image_encoder`.
        features: That count.
        embedding: W_Embed; where its rows are images, z goes through convolutions too.
        widths: Of these convolutions.
        hidden: Width of the linear layers.
        dropout: Probability, after each convolution of z.

    Returns:
        The encoder with the image path upon it, and the block.
    """
    label_encoder, label_features = paper_encoder(embedding.shape, widths, dropout) if embedding.shape else (None, 0)
    block = TimedBlock(
        hidden,
        embedding.classes,
        embedding.dim,
        label_encoder=label_encoder,
        label_features=label_features,
        label_shape=embedding.shape,
    )
    return nn.Sequential(encoder, *TimedBlock.image_path(features, hidden)), block


class ResidualChain(nn.Module):
    """NoProp's blocks in a row, to be trained by back-propagation: the paper's baseline (17)-(19).

        z_0 ~ N(0, I),   z_t = (1 - a_t) z_{t-1} + a_t û_t(z_{t-1}, x),   a_t = tanh(w_t),   logits = linear(z_T)

    Args:
        blocks: Called as `block(z, x)`, giving class logits.
        embedding: W_Embed, which turns them into û_t.
        start: z_0: `"noise"` as in the paper, or its mean, `"zero"`.
        share: Initial a_t; the paper gives none.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        embedding: ClassEmbedding,
        *,
        start: Literal["noise", "zero"] = "noise",
        share: float = 0.5,
    ) -> None:
        super().__init__()
        self.blocks, self.embedding, self.start = blocks, embedding, start
        self.w = nn.Parameter(torch.full((len(blocks),), math.atanh(share)))
        self.head = embedding.nearest_row_classifier()

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits, shape (batch, classes)."""
        z = self.embedding.rows.new_zeros(len(x), self.embedding.dim)
        if self.start == "noise":
            z = torch.randn_like(z)
        for a, block in zip(self.w.tanh(), self.blocks, strict=True):
            z = (1 - a) * z + a * self.embedding.expected(block(z, x))
        return self.head(z)
