"""What the output is to come close to, and the slope by which it is nudged there."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.rule import check_labels


class Cost(Protocol):
    """A loss of each sample and its slope in the scores."""

    def targets(self, y: Tensor, scores: Tensor) -> Tensor:
        """Check targets and bring them into the form that the others take."""

    def value(self, scores: Tensor, y: Tensor) -> Tensor:
        """L of each sample, shape (batch,)."""

    def slope(self, scores: Tensor, y: Tensor) -> Tensor:
        """The slope dL / dscores."""


class CrossEntropy:
    """L = -log softmax(scores)_y."""

    def targets(self, y: Tensor, scores: Tensor) -> Tensor:
        """Class indices as int64."""
        return check_labels(y, scores.shape[1])

    def value(self, scores: Tensor, y: Tensor) -> Tensor:
        """-log softmax(scores)_y."""
        return F.cross_entropy(scores, y, reduction="none")

    def slope(self, scores: Tensor, y: Tensor) -> Tensor:
        """softmax(scores) - one-hot(y)."""
        share = scores.softmax(1)
        return share - F.one_hot(y, scores.shape[1]).to(share.dtype)


class SquaredError:
    """L = |scores - y|^2 / 2, where y is one-hot for a class."""

    def targets(self, y: Tensor, scores: Tensor) -> Tensor:
        """Numbers of the scores' shape, or class indices as one-hot vectors."""
        if y.shape == scores.shape and y.is_floating_point():
            return y.to(scores.dtype)
        if y.is_floating_point():
            raise UserError(f"targets of shape {tuple(y.shape)} for an output of shape {tuple(scores.shape)}")
        return F.one_hot(check_labels(y, scores.shape[1]), scores.shape[1]).to(scores.dtype)

    def value(self, scores: Tensor, y: Tensor) -> Tensor:
        """|scores - y|^2 / 2."""
        return (scores - y).square().flatten(1).sum(1) / 2

    def slope(self, scores: Tensor, y: Tensor) -> Tensor:
        """Scores - y."""
        return scores - y


def one_for_each(values: Tensor, state: Tensor) -> Tensor:
    """Numbers of the samples, to be multiplied with their states."""
    return values.view(-1, *[1] * (state.ndim - 1)).to(state.dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each sample."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))
