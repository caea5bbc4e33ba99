"""predsim: each block classifies, and brings samples of one class together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rules.local.local_losses import LocalLosses

MOST_FEATURES = 4096  # that a local classifier of an image reads
MOST_SIMILAR = 16_384  # that a linear f_k maps to as many: a gibibyte of float32


class PredSim(LocalLosses):
    """Local prediction and similarity matching (Nøkland and Eidnes, arXiv 1901.06656, Section 2).

        l_k = (1 - β) cross_entropy(V_k h_k, y) + β mean((R(f_k(h_k)) - R(onehot(y)))²)

    with R(H) the matrix of the cosines between every two samples of the batch, each centred over its features; f_k is
    linear with as many outputs as inputs, or, for images, a 3x3 convolution and the standard deviation of every channel
    over its places. The output layer is a block of its own, trained by `loss`.

    Args:
        network, example, classes, blocks, loss, order: As `LocalLosses`.
        beta: β, the share of similarity matching, 0 to 1; at 0 what is left is prediction alone, at 1 similarity.

    Raises:
        UnsupportedNetworkError: A block that gives no image gives more numbers than can be matched.
        UserError: `beta` is out of range; and as `LocalLosses`.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> rule = PredSim(network, torch.zeros(2, 4), 3)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        beta: float = 0.99,
        **options: Any,
    ) -> None:
        if not 0 <= beta <= 1:
            raise UserError(f"beta must lie in 0..1, got {beta}")
        self.beta = beta

        def objective(shape: torch.Size, classes: int) -> PredictionAndSimilarity:
            return PredictionAndSimilarity(shape, classes, beta)

        super().__init__(network, example, classes, objective=objective, **options)


class PredictionAndSimilarity(nn.Module):
    """The local loss of `PredSim`.

    Args:
        shape: Of the block's output, without the batch: (features,) or (channels, height, width); of any other, the
            numbers of a sample count as its features.
        classes: Number of classes.
        beta: Share of similarity matching.
    """

    def __init__(self, shape: torch.Size, classes: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.side = 0  # of the image to which an image is averaged before it is classified
        features = shape.numel()
        self.similar: nn.Module | None = None
        self.classify: nn.Module | None = None
        if len(shape) == 3:
            channels, height, width = shape
            self.side = min(height, width, max(1, int((MOST_FEATURES // channels) ** 0.5)))
            features = channels * self.side**2
        if beta > 0 and len(shape) != 3 and features > MOST_SIMILAR:
            raise UnsupportedNetworkError(
                f"a block gives {features:,} numbers a sample, shape {tuple(shape)}, too many to match similarity by "
                "a linear layer of as many outputs: let blocks end in vectors or images, or give beta=0"
            )
        if beta > 0:
            conv = len(shape) == 3
            self.similar = (
                nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
                if conv
                else nn.Linear(features, features, bias=False)
            )
        if beta < 1:
            self.classify = nn.Linear(features, classes)
            nn.init.zeros_(self.classify.weight)
        self.classes = classes

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            h: The block's output, shape (batch, ...).
            y: Class indices, shape (batch,).
        """
        h = h if self.side else h.flatten(1)
        loss = h.new_zeros((), dtype=torch.promote_types(h.dtype, torch.float32))
        if self.similar is not None:
            with torch.autocast(h.device.type, enabled=False):
                target = similarity(F.one_hot(y, self.classes).to(loss.dtype))
            made = self.similar(h).to(loss.dtype)
            if self.side:  # of few channels the deviations say nothing, and one place alone has none
                few = made.shape[1] <= 3 or made[0, 0].numel() == 1
                made = made.flatten(1) if few else made.flatten(2).std(dim=2)
            with torch.autocast(h.device.type, enabled=False):
                loss = loss + self.beta * F.mse_loss(similarity(made), target)
        if self.classify is not None:
            seen = F.adaptive_avg_pool2d(h, self.side).flatten(1) if self.side else h
            loss = loss + (1 - self.beta) * F.cross_entropy(self.classify(seen), y)
        return loss


def similarity(h: Tensor) -> Tensor:
    """Cosines between every two samples, each centred over its features.

    Args:
        h: Shape (batch, features).

    Returns:
        Shape (batch, batch), within -1..1.
    """
    centred = h - h.mean(dim=1, keepdim=True)
    # Not quite of length 1, so that a sample without any deviation has a finite derivative.
    directions = centred * (centred.square().sum(dim=1, keepdim=True) + 1e-8).rsqrt()
    return (directions @ directions.T).clamp(-1, 1)
