"""The block of NoProp in discrete time, around any image encoder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError


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
        label_encoder: Where z is an image (prototype embeddings): maps z, reshaped to `label_shape`, to `features`
            numbers; it takes the place of the label path's linear layers.
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
            self.label_path = nn.Sequential(reshape, label_encoder, nn.Linear(features, hidden), BatchNorm(hidden))
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
