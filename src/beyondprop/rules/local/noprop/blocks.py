"""The block of NoProp in discrete time, around any image encoder."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.inputs import refuse_double
from beyondprop.rule import without_trace


class DenoisingBlock(nn.Module):
    """One block of NoProp-DT (arXiv 2503.24322, Figure 6, left): says from x and a noisy label what the label is.

        encoder(x) - FC - BN                                   image path
        h = FC - BN - ReLU (z),  h + FC - BN - ReLU - FC - BN (h)   label path
        both - FC - BN - ReLU - FC - BN - ReLU - FC            fusion

    Any module called as `block(z, x)` that returns class logits can stand in its place.

    Args:
        encoder: Maps the input batch to `features` numbers a sample.
        features: Length of what the encoder gives.
        classes: Number of classes.
        dim: Dimension d of z.
        hidden: Width of either path.
        label_encoder: Where z is an image (prototype embeddings): maps z, reshaped to `label_shape`, to
            `label_features` numbers; it takes the place of the label path's linear layers.
        label_features: Length of what the label encoder gives; by default `features`.
        label_shape: Shape of z as an image, (channels, height, width).
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        classes: int,
        dim: int,
        *,
        hidden: int = 256,
        label_encoder: nn.Module | None = None,
        label_features: int | None = None,
        label_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.image_path = nn.Sequential(encoder, nn.Linear(features, hidden), BatchNorm(hidden))
        if label_encoder is None:
            self.label_path: nn.Module = nn.Sequential(
                nn.Linear(dim, hidden), BatchNorm(hidden), nn.ReLU(), _ResidualPair(hidden)
            )
        else:
            reshape = nn.Unflatten(1, label_shape or (dim,))
            last = nn.Linear(label_features or features, hidden)
            self.label_path = nn.Sequential(reshape, label_encoder, last, BatchNorm(hidden))
        self.fusion = nn.Sequential(
            nn.Linear(2 * hidden, hidden),
            BatchNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            BatchNorm(hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, classes),
        )

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return class logits.

        Args:
            z: Noisy label embeddings, shape (batch, d).
            x: The input batch.

        Returns:
            Logits, shape (batch, classes).
        """
        return self.fusion(torch.cat([self.image_path(x), self.label_path(z)], dim=1))


class TimedBlock(nn.Module):
    """The block of NoProp-CT and NoProp-FM (arXiv 2503.24322, Figure 6, right): one for all times, without batch norm.

        FC - ReLU (image features)  image path
        FC - ReLU (z)               label path
        FC - ReLU (positions of t)  time path
        all three side by side - FC - ReLU - FC - ReLU - FC     fusion

    A linear layer of the three side by side is a sum of three linear layers. The image's own stands in the encoder,
    which ends in `TimedBlock.image_path`: so it is computed once for a batch, whatever the number of steps.

    Any module called as `block(z, h, t)` that returns class logits can stand in its place.

    Args:
        hidden: Width of all paths, and length of h.
        classes: Number of classes.
        dim: Dimension d of z.
        label_encoder: Where z is an image (prototype embeddings): maps z, reshaped to `label_shape`, to
            `label_features` numbers, before the label path's linear layer.
        label_features: Length of what the label encoder gives.
        label_shape: Shape of z as an image, (channels, height, width).
    """

    def __init__(
        self,
        hidden: int,
        classes: int,
        dim: int,
        *,
        label_encoder: nn.Module | None = None,
        label_features: int = 0,
        label_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if label_encoder is None:
            self.label_path = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU())
        else:
            reshape = nn.Unflatten(1, label_shape or (dim,))
            self.label_path = nn.Sequential(reshape, label_encoder, nn.Linear(label_features, hidden), nn.ReLU())
        self.label_path.append(_PartOfLinear(hidden, hidden, bias=False))
        self.time_path = nn.Sequential(
            PositionalEmbedding(64), nn.Linear(64, hidden), nn.ReLU(), _PartOfLinear(hidden, hidden, bias=False)
        )
        self.fusion = nn.Sequential(
            nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, classes)
        )

    def forward(self, z: Tensor, h: Tensor, t: Tensor) -> Tensor:
        """Return class logits.

        Args:
            z: Noisy label embeddings, shape (batch, d).
            h: What the encoder makes of x, shape (batch, hidden).
            t: Time, shape (batch,). Where it is one number expanded to the batch, its path is run once.

        Returns:
            Logits, shape (batch, classes).
        """
        of_t = self.time_path(t[:1] if t.stride(0) == 0 else t)
        return self.fusion(h + self.label_path(z) + of_t)

    @staticmethod
    def image_path(features: int, hidden: int) -> nn.Sequential:
        """Make the image path with its part of the fusion: from an image's features to h.

        Args:
            features: Length of what an image encoder gives.
            hidden: As the block's.
        """
        return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), _PartOfLinear(hidden, hidden))


class _PartOfLinear(nn.Linear):
    """A third of a linear layer over three inputs of one length, started as a part of it."""

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(3 * self.in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)


class PositionalEmbedding(nn.Module):
    """Sines and cosines of t at frequencies from 1000 down to 0.1 radians per unit of time, evenly spread in logarithm.

    These are the positions of Vaswani et al. (arXiv 1706.03762, Section 3.5) at 1000 t.

    Args:
        size: How many numbers stand for a time, half of them sines; even.
    """

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        exponents = torch.arange(size // 2) / (size // 2)
        self.register_buffer("frequencies", 1000 * 10000**-exponents, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return shape (..., size) for times of shape (...)."""
        angles = t.to(self.frequencies.dtype).unsqueeze(-1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one as evaluation does: one sample has no variance to learn from."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if self.training and len(input) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class _ResidualPair(nn.Module):
    """h + (FC - BN - ReLU - FC - BN)(h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Linear(width, width), BatchNorm(width), nn.ReLU(), nn.Linear(width, width), BatchNorm(width)
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.change(h)


def checked_logits(logits: object, block: str, shape: tuple[int, int]) -> Tensor:
    """Refuse what a block returns where it is no class logits.

    Args:
        logits: What it returned.
        block: Its name.
        shape: (batch, classes).

    Raises:
        UnsupportedNetworkError: It is no tensor of this shape.
    """
    if isinstance(logits, Tensor) and logits.shape == shape:
        return logits
    made = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    raise UnsupportedNetworkError(f"{block} returns {made}, but class logits have (batch, classes) = {shape}")


def count_features(network: nn.Module, example: Tensor) -> int:
    """How many numbers a network makes of a sample, by running it once without a trace.

    Raises:
        UserError: The example is float64 and the network float32.
        UnsupportedNetworkError: It returns no tensor.
    """
    refuse_double(example, network)
    with without_trace(network):
        made = network(example)
    if not isinstance(made, Tensor) or made.ndim == 0:
        raise UnsupportedNetworkError(
            f"the network must return a tensor with the batch first, not {type(made).__name__}"
        )
    return made.flatten(1).shape[1]


def reinitialised_copy(network: nn.Module) -> nn.Module:
    """Copy a network and draw new weights for each layer that has `reset_parameters`; frozen layers keep theirs.

    Raises:
        UnsupportedNetworkError: The network cannot be copied.
    """
    try:
        twin = copy.deepcopy(network)
    except Exception as error:  # whatever the user's own modules raise
        raise UnsupportedNetworkError(f"{type(network).__name__} cannot be copied for each block: {error}") from error
    for module in twin.modules():
        frozen = any(not parameter.requires_grad for parameter in module.parameters(recurse=False))
        if not frozen and callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return twin
