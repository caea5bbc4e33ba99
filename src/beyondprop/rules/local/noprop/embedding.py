"""What NoProp diffuses: an embedding u_y of each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError


class ClassEmbedding(nn.Module):
    """The rows u_y of W_Embed (arXiv 2503.24322, Section 2.2.1).

    Args:
        rows: W_Embed, shape (classes, d).
        learned: Whether the rows are trained.
        shape: Shape of a row as an image, (channels, height, width), where it is one; blocks may then treat z as an image.

    Raises:
        UserError: rows is no matrix of at least two classes, holds NaN, or has two equal rows.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, *, learned: bool, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        if rows.ndim != 2 or len(rows) < 2 or not rows.isfinite().all():
            raise UserError(f"an embedding needs a finite matrix of two classes or more, got shape {tuple(rows.shape)}")
        if len(rows.unique(dim=0)) < len(rows):
            raise UserError("two classes have the same embedding, so that nothing can tell them apart")
        self.shape = shape
        if learned:
            self.rows = nn.Parameter(rows.clone())
        else:
            self.register_buffer("rows", rows.clone())

    @property
    def classes(self) -> int:
        """Number of classes, m."""
        return self.rows.shape[0]

    @property
    def dim(self) -> int:
        """Dimension of an embedding, d."""
        return self.rows.shape[1]

    @property
    def learned(self) -> bool:
        """Whether the rows are trained."""
        return isinstance(self.rows, nn.Parameter)

    def forward(self, y: Tensor) -> Tensor:
        """u_y, shape (batch, d), of labels y, shape (batch,)."""
        return self.rows[y]

    def expected(self, logits: Tensor) -> Tensor:
        """û = softmax(logits) W_Embed, shape (batch, d), of logits of shape (batch, classes)."""
        # Not under autocast: the denoising error is a small difference of û and u, which bf16 would drown.
        with torch.autocast(logits.device.type, enabled=False):
            return logits.to(self.rows.dtype).softmax(dim=-1) @ self.rows

    @classmethod
    def one_hot(cls, classes: int) -> ClassEmbedding:
        """Fixed rows of the identity matrix, d = classes."""
        return cls(torch.eye(classes), learned=False)

    @classmethod
    def orthogonal(cls, classes: int, dim: int) -> ClassEmbedding:
        """Learned rows of length 1, orthogonal to each other where d >= classes, else in random directions."""
        if dim >= classes:
            return cls(nn.init.orthogonal_(torch.empty(classes, dim)), learned=True)
        return cls(nn.functional.normalize(torch.randn(classes, dim)), learned=True)

    @classmethod
    def prototype(cls, images: Tensor, labels: Tensor, classes: int, *, norm: float = 1.0) -> ClassEmbedding:
        """Learned rows that start as one training image of each class: the one with the smallest median distance to the others.

        The paper does not say how the images are scaled. Here the mean of the prototypes is subtracted and all are divided
        by one number that makes their root-mean-square length `norm`: the label stands out of z_t by ᾱ_t ||u_i - u_j||²
        against 1 - ᾱ_t, so that long rows would give it away at almost every step.

        Args:
            images: Training images, shape (N, channels, height, width) or (N, features); any real type.
            labels: Their classes, shape (N,).
            classes: Number of classes, each with at least one image.
            norm: Root-mean-square length of a row; 1 is that of a one-hot row.

        Raises:
            UserError: A class has no image.
        """
        flat = images.flatten(1)
        chosen = []
        for label in range(classes):
            members = flat[labels == label].float()
            if len(members) == 0:
                raise UserError(f"class {label} has no training image to be its prototype")
            chosen.append(members[_medoid(members)])
        rows = torch.stack(chosen)
        rows = rows - rows.mean(dim=0)
        rows = rows * (norm / rows.square().sum(dim=1).mean().sqrt())
        return cls(rows, learned=True, shape=tuple(images.shape[1:]) if images.ndim == 4 else None)


def _medoid(points: Tensor, chunk: int = 512) -> int:
    """Index of the point with the smallest median Euclidean distance to all other points, chunk by chunk to bound memory."""
    if len(points) == 1:
        return 0
    medians = []
    for start in range(0, len(points), chunk):
        distances = torch.cdist(points[start : start + chunk], points)
        own = torch.arange(len(distances), device=points.device)
        distances[own, own + start] = torch.nan  # the distance to itself is none of the others
        medians.append(distances.nanmedian(dim=1).values)
    return int(torch.cat(medians).argmin())
