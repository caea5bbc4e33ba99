"""A linear layer of which some inputs are the sample's alone and the others the class's alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from beyondprop.transforms import is_transformed


def linear_of_parts(
    samples: Tensor, classes: Tensor, weight: Tensor, *, classes_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Multiply a layer's weights with samples and with classes, each once.

    The product with a sample and its class side by side is the sum of both rows. Under autocast the products are in its
    precision.

    Args:
        samples: Shape (batch, n).
        classes: Shape (classes, m).
        weight: Shape (units, n + m).
        classes_first: Whether the classes' columns stand before the samples'.

    Returns:
        The products with the samples, shape (batch, units), and with the classes, (classes, units).

    >>> weight = torch.tensor([[1.0, 2.0, 3.0]])
    >>> linear_of_parts(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0]]), weight)
    (tensor([[3.]]), tensor([[6.]]))
    """
    kind = weight.device.type
    if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:  # which autocast leaves alone
        precision = torch.get_autocast_dtype(kind)
        samples, classes, weight = samples.to(precision), classes.to(precision), weight.to(precision)
    if is_transformed():
        return _products(samples, classes, weight, classes_first)
    products: tuple[Tensor, Tensor] = _LinearOfParts.apply(samples, classes, weight, classes_first)
    return products


class _LinearOfParts(torch.autograd.Function):
    """Writes the weight's gradient once: that of a weight which autograd has split is put together from copies."""

    @staticmethod
    def forward(samples: Tensor, classes: Tensor, weight: Tensor, classes_first: bool) -> tuple[Tensor, Tensor]:
        return _products(samples, classes, weight, classes_first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        ctx.save_for_backward(*inputs[:3])
        ctx.classes_first = inputs[3]

    @staticmethod
    def backward(ctx: Any, *made: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, weight = ctx.saved_tensors
        parts = _columns(weight, inputs[0].shape[1], ctx.classes_first)
        found: list[Tensor | None] = [
            gradient @ columns if wanted else None
            for gradient, columns, wanted in zip(made, parts, ctx.needs_input_grad, strict=False)
        ]
        if not ctx.needs_input_grad[2]:
            return *found, None, None
        at_once = is_transformed() or any(torch._C._functorch.is_legacy_batchedtensor(gradient) for gradient in made)
        if torch.is_grad_enabled() or at_once:  # to be differentiated again, or several together
            gradients = [gradient.t() @ part for gradient, part in zip(made, inputs, strict=True)]
            return *found, torch.cat(gradients[::-1] if ctx.classes_first else gradients, dim=1), None
        whole = torch.empty_like(weight)
        places = _columns(whole, inputs[0].shape[1], ctx.classes_first)
        for gradient, part, place in zip(made, inputs, places, strict=True):
            torch.mm(gradient.t(), part, out=place)
        return *found, whole, None


def _products(samples: Tensor, classes: Tensor, weight: Tensor, classes_first: bool) -> tuple[Tensor, Tensor]:
    of_samples, of_classes = _columns(weight, samples.shape[1], classes_first)
    return F.linear(samples, of_samples), F.linear(classes, of_classes)


def _columns(weight: Tensor, samples: int, classes_first: bool) -> tuple[Tensor, Tensor]:
    """Views of the samples' columns and of the classes'."""
    if classes_first:
        classes = weight.shape[1] - samples
        return weight[:, classes:], weight[:, :classes]
    return weight[:, :samples], weight[:, samples:]
