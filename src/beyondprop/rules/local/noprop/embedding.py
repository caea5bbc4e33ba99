"""What NoProp diffuses: an embedding u_y of each class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError

ErrorKind = Literal["squared", "cross-entropy"]


class ClassEmbedding(nn.Module):
    """The rows u_y of W_Embed (arXiv 2503.24322, Section 2.2.1).

    Learned rows are kept as a table of root-mean-square 1 and a fixed scale: an optimizer with steps of its own size,
    such as Adam, then moves them by the same small part whatever the dimension. (Rows of length 1 in the 784 dimensions
    of an image have entries of 0.04; moved by 0.001 a step, classes soon fell together.)

    Args:
        rows: W_Embed, shape (classes, d).
        learned: Whether the rows are trained.
        shape: Shape of a row as an image, (channels, height, width), where it is one; blocks may then treat z as an
            image.

    Raises:
        UserError: rows is no matrix of at least two classes, holds NaN, or has two equal rows.
    """

    table: Tensor
    scale: Tensor

    def __init__(self, rows: Tensor, *, learned: bool, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        if rows.ndim != 2 or len(rows) < 2 or not rows.isfinite().all():
            raise UserError(f"an embedding needs a finite matrix of two classes or more, got shape {tuple(rows.shape)}")
        if len(rows.unique(dim=0)) < len(rows):
            raise UserError("two classes have the same embedding, so that nothing can tell them apart")
        self.shape = shape
        scale = rows.square().mean().sqrt() if learned else rows.new_ones(())
        self.register_buffer("scale", scale)
        if learned:
            self.table = nn.Parameter(rows / scale)
        else:
            self.register_buffer("table", rows.clone())

    @property
    def rows(self) -> Tensor:
        """W_Embed, shape (classes, d)."""
        return self.table * self.scale if self.learned else self.table

    @property
    def classes(self) -> int:
        """Number of classes, m."""
        return self.table.shape[0]

    @property
    def dim(self) -> int:
        """Dimension of an embedding, d."""
        return self.table.shape[1]

    @property
    def learned(self) -> bool:
        """Whether the rows are trained."""
        return isinstance(self.table, nn.Parameter)

    def forward(self, y: Tensor) -> Tensor:
        """u_y, shape (batch, d), of labels y, shape (batch,)."""
        return self.rows[y]

    def expected(self, logits: Tensor) -> Tensor:
        """û = softmax(logits) W_Embed, shape (batch, d), of logits of shape (batch, classes)."""
        return self.combined(logits.to(self.table.dtype).softmax(dim=-1))

    def denoising_error(self, logits: Tensor, y: Tensor, kind: ErrorKind) -> Tensor:
        """How far what a block says is from the truth, for each sample.

        Args:
            logits: Of a block, shape (batch, classes), or of several, (blocks, batch, classes).
            y: Labels, shape (batch,).
            kind: `"squared"`: ||û - u_y||², the paper's. `"cross-entropy"`: -log softmax(logits)_y, which diffusion
                models of words train by (Dieleman et al., arXiv 2211.15089, Section 3.2): its gradient does not vanish
                where the block is wrong and sure, as it is for long with many classes.

        Returns:
            The shape of logits without the last dimension.
        """
        if kind == "squared":
            return (self.expected(logits) - self(y)).square().sum(dim=-1)
        likely = logits.to(self.table.dtype).log_softmax(dim=-1)
        return -likely.gather(-1, y.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def combined(self, weights: Tensor) -> Tensor:
        """The rows' sum with given weights, shape (batch, d), of weights of shape (batch, classes)."""
        # Not under autocast: the denoising error is a small difference of û and u, which bf16 would drown.
        with torch.autocast(weights.device.type, enabled=False):
            return weights.to(self.table.dtype) @ self.rows

    def nearness(self, z: Tensor) -> Tensor:
        """u·z - ||u||²/2, shape (batch, classes): -||z - u||²/2 up to ||z||², which is common to all classes."""
        with torch.autocast(z.device.type, enabled=False):
            rows = self.rows
            return z @ rows.T - 0.5 * rows.square().sum(dim=1)

    def nearest_row_classifier(self, sharpness: float = 10.0) -> nn.Linear:
        """Make a linear head that starts as the nearest row: logits k (u·z - ||u||²/2).

        Started at random the head is the last to learn, by NoProp and by back-propagation alike: z is short, so its
        weights have far to grow. After one epoch of MNIST such a head held the chain 13 points below its blocks.

        Args:
            sharpness: k.
        """
        head = nn.Linear(self.dim, self.classes, dtype=self.rows.dtype, device=self.rows.device)
        with torch.no_grad():
            head.weight.copy_(sharpness * self.rows)
            head.bias.copy_(-0.5 * sharpness * self.rows.square().sum(dim=1))
        return head

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
        """Learned rows that start as one training image of each class.

        It is the one with the smallest median distance to the others of its class. The paper does not say how images
        are scaled. Here the mean of the prototypes is subtracted and all are divided by one number that makes their
        root-mean-square length `norm`: the label stands out of z_t by ᾱ_t ||u_i - u_j||² against 1 - ᾱ_t, so that long
        rows would give it away at almost every step.

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
    """Index of the point with the smallest median Euclidean distance to the others, chunk by chunk to bound memory."""
    if len(points) == 1:
        return 0
    medians = []
    for start in range(0, len(points), chunk):
        distances = torch.cdist(points[start : start + chunk], points)
        own = torch.arange(len(distances), device=points.device)
        distances[own, own + start] = torch.nan  # the distance to itself is none of the others
        medians.append(distances.nanmedian(dim=1).values)
    return int(torch.cat(medians).argmin())
