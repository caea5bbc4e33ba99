"""PCANet: two stages of principal components, hashing, block histograms and a linear classifier."""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import check_labels
from beyondprop.solver import Solver
from beyondprop.solvers.rescnet.features import BITS, binary_codes, sliding_histograms
from beyondprop.solvers.rescnet.filters import PatchCovariance, principal_filters, respond
from beyondprop.solvers.rescnet.images import CHUNK, check_images, image_shape

BATCH = 128  # samples of a step of the classifier at most: of larger batches there would be too few steps


class PCANet(Solver):
    r"""PCANet (Chan, Jia, Gao, Lu, Zeng, Ma, arXiv 1404.3606), of two stages.

    The first passes find the filters: principal components of patches without their mean, of the images, and then of
    each of the first stage's maps, which share the second stage's filters. Eight second-stage maps of a first-stage
    map make a number of 8 bits by their signs, and how often each number comes in a block, 256 numbers, are the
    features. The last passes train a linear classifier, a support vector machine with squared hinge loss, each class
    against the rest.

    The paper gives all features to a batch solver (LIBLINEAR). They are a hundred thousand a sample and more, so here
    they are made batch by batch, and the same convex problem is solved by stochastic gradients (Adam's steps, falling
    to zero) in a given number of passes; the memory is that of a batch.

    Args:
        shape: (channels, height, width) of an image.
        classes: Number of classes.
        first: L1, filters of the first stage.
        patch: Side of a patch, odd.
        block: Side of a histogram's block.
        stride: From one block to the next; half of `block` is the paper's overlap.
        grids: Of a pyramid, such as (4, 2, 1): the largest share among the blocks of each of so many regions along each
            side, as the paper has for CIFAR-10. Without, all blocks are features.
        passes: Of the classifier over the data.
        rate: Of its first steps, for features scaled to length 1.
        decay: Weight of ½ ‖w‖² beside the mean loss.

    Raises:
        UserError: An option is out of range; in `fit`, an image has another shape, or a label is no class index.
        NonFiniteError: In `fit`, when images hold NaN or infinity.

    >>> x, y = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    >>> PCANet((1, 8, 8), 3, first=2, patch=3, block=4, stride=2, passes=1).fit(x, y)(x[:5]).shape
    torch.Size([5, 3])
    """

    scale: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        first: int = 8,
        patch: int = 7,
        block: int = 7,
        stride: int = 3,
        grids: tuple[int, ...] = (),
        passes: int = 8,
        rate: float = 3e-3,
        decay: float = 1e-5,
    ) -> None:
        super().__init__()
        check_whole(1, first=first, patch=patch, block=block, stride=stride, passes=passes)
        check_whole(2, classes=classes)
        check_number(rate=rate, above=True)
        check_number(decay=decay)
        channels, height, width = shape
        if patch % 2 == 0:
            raise UserError(f"patch must be odd, not {patch}")
        if block > min(height, width) or any(grid < 1 for grid in grids):
            raise UserError(f"blocks of {block} and grids {grids} must fit into {height}x{width} pixels")
        self.shape, self.classes = tuple(shape), classes
        self.block, self.stride, self.grids = block, stride, tuple(grids)
        self.rate, self.decay = rate, decay
        blocks = (
            sum(grid**2 for grid in grids)
            if grids
            else ((height - block) // stride + 1) * ((width - block) // stride + 1)
        )
        self.filters = nn.ParameterList(
            nn.Parameter(torch.zeros(count, depth, patch, patch), requires_grad=False)
            for count, depth in ((first, channels), (BITS, 1))
        )
        self.linear = nn.Linear(blocks * first * 2**BITS, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("scale", torch.tensor(0.0))
        self.passes = ("stage 1", "stage 2", *(f"classifier {number + 1}" for number in range(passes)))
        # Adam's means of gradients and of their squares, and its steps so far.
        for name, parameter in (("weight", self.linear.weight), ("bias", self.linear.bias)):
            self.register_buffer(f"mean_{name}", torch.zeros_like(parameter))
            self.register_buffer(f"square_{name}", torch.zeros_like(parameter))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("samples", torch.tensor(0))
        self.linear.requires_grad_(False)
        self._covariance: PatchCovariance | None = None
        self._seen = 0

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Fit to images of the example's shape; of the classifier nothing is used.

        Raises:
            UserError: The example is no batch of images.
        """
        del network
        return cls(image_shape(example, "PCANet"), classes, **options)

    def begin(self, part: str) -> None:
        """Make empty sums of a stage's patches."""
        number, self._seen = self.passes.index(part), 0
        self._covariance = None
        if number < 2:
            self._covariance = PatchCovariance(self.filters[number][0].numel(), self.linear.weight.device)
        if number == 2:
            weights = (self.linear.weight, self.mean_weight, self.square_weight)
            biases = (self.linear.bias, self.mean_bias, self.square_bias)
            for buffer in (*weights, *biases, self.steps, self.scale):
                cast(Tensor, buffer).zero_()

    def absorb(self, x: Tensor, y: Tensor, part: str) -> None:
        """Add a batch's patches, or take a step of the classifier by it.

        Args:
            x: Images, shape (batch, channels, height, width).
            y: Class indices, shape (batch,).
            part: The pass.
        """
        number, labels = self.passes.index(part), check_labels(y, self.classes)
        check_images(x, self.shape)
        if self._covariance is None:
            for few, theirs in zip(x.split(BATCH), labels.split(BATCH), strict=True):
                self._seen += len(few)
                self._step(self.features(few), theirs, number - 2)
            return
        self._seen += len(x)
        for some in x.to(self.filters[0].dtype).split(CHUNK):
            maps = some if number == 0 else respond(some, self.filters[0], None).flatten(0, 1).unsqueeze(1)
            for few in maps.split(8 * CHUNK):
                self._covariance.add(few, self.filters[number].shape[-1])

    def conclude(self, part: str) -> None:
        """Set a stage's filters."""
        number = self.passes.index(part)
        cast(Tensor, self.samples).fill_(self._seen)
        if self._covariance is not None:
            filters = self.filters[number]
            filters.copy_(principal_filters(self._covariance, *filters.shape[:2]))
            self._covariance = None

    def features(self, x: Tensor) -> Tensor:
        """Histograms of hashed maps, shape (batch, D)."""
        found = []
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for some in x.split(CHUNK):
                maps = respond(some.to(self.filters[0].dtype), self.filters[0], None)
                few = maps.flatten(0, 1).unsqueeze(1).split(8 * CHUNK)
                codes = torch.cat([binary_codes(respond(each, self.filters[1], None)) for each in few])
                found.append(sliding_histograms(codes.view(maps.shape), self.block, self.stride, self.grids))
        return torch.cat(found)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, shape (batch, classes)."""
        check_images(x, self.shape)
        with torch.autocast(x.device.type, enabled=False):
            chunks = x.split(CHUNK)  # features of all would be gigabytes
            return torch.cat([self._scores(self.features(some).to(self.linear.weight.dtype)) for some in chunks])

    def _scores(self, features: Tensor) -> Tensor:
        """Of features that are not scaled yet: the weights are smaller by far."""
        return F.linear(features, self.linear.weight * self.scale, self.linear.bias)

    def _step(self, features: Tensor, labels: Tensor, number: int) -> None:
        """One of Adam's steps down the mean of (1 - ±f)₊² over the batch, plus the decay."""
        features = features.to(self.linear.weight.dtype)
        if self.scale == 0:
            self.scale.copy_(1 / features.square().sum(dim=1).mean().sqrt().clamp(min=1e-12))
        signs = 2.0 * F.one_hot(labels, self.classes).to(features.dtype) - 1
        slack = (1 - signs * self._scores(features)).clamp(min=0)
        if not slack.isfinite().all():
            raise NonFiniteError("the classifier's loss is NaN or infinite: lower the rate")
        pull = -2 * signs * slack / len(labels)
        gradients = (pull.T @ features * self.scale + self.decay * self.linear.weight, pull.sum(dim=0))
        steps = cast(Tensor, self.steps)
        steps += 1
        classifier_passes = len(self.passes) - 2
        share = (number + min(self._seen / max(int(cast(Tensor, self.samples)), 1), 1.0)) / classifier_passes
        rate = self.rate * max(1 - share, 0.0)
        for name, gradient in zip(("weight", "bias"), gradients, strict=True):
            mean, square = (cast(Tensor, getattr(self, f"{moment}_{name}")) for moment in ("mean", "square"))
            mean.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            corrected = (square / (1 - 0.999 ** int(steps))).sqrt() + 1e-8
            getattr(self.linear, name).sub_(rate / (1 - 0.9 ** int(steps)) * mean / corrected)
