"""Measuring a rule on a split, without a trace in the training."""

from __future__ import annotations

import functools
import logging
import platform
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import check_labels, evaluating
from beyondprop.training.sources import Source, device_of

PRECISIONS = ("float32", "bf16")
logger = logging.getLogger("beyondprop.training")


@runtime_checkable
class Measured(Protocol):
    """A rule or solver whose predictions are neither classes nor the targets' own numbers, and that measures itself."""

    def own_figures(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Its figures on a split: `count`, `loss`, and others of its own, which results tell by their names."""


def evaluate(
    rule: nn.Module, batches: Any, *, inference: dict[str, Any] | None = None, precision: str = "float32"
) -> dict[str, float]:
    """Measure how well a rule or solver predicts.

    It predicts in evaluation mode; afterwards the modes and the generators are as they were.

    Args:
        rule: Called as `rule(x, **inference)`; gives scores of shape (batch, classes), of which softmax gives
            probabilities.
        batches: Pairs (x, y), in any form that `fit` takes. y is class indices (batch,) or class probabilities
            (batch, classes), or class indices (batch, time) for scores of shape (batch, time, classes); any other y of
            the scores' shape is a regression target.
        inference: Options of the call.
        precision: `"float32"`, or `"bf16"` for autocast.

    Returns:
        `count`, the number of samples, or of steps where each has a class; `accuracy` in 0..1 and `loss`, the mean
        cross-entropy in nats. For regression there is no accuracy, and `loss` is the mean squared error. Of a
        `Measured` rule, what it tells itself.

    Raises:
        UserError: There are no batches, one is no pair, targets and scores do not fit, or a label is no class index.
        NonFiniteError: A prediction is NaN.

    >>> from torch import nn
    >>> evaluate(nn.Identity(), [(torch.tensor([[0.0, 9.0], [0.0, 9.0]]), torch.tensor([1, 0]))])["accuracy"]
    0.5
    """
    device = device_of(rule)
    if isinstance(rule, Measured):
        with evaluating(rule), torch.inference_mode(), autocast(device, precision):
            return rule.own_figures(Source(batches, device).open(0))
    count, classified, regression = 0, True, True
    correct, nats, squares, unknown = torch.zeros(4, device=device)  # read once, at the end
    with evaluating(rule), torch.inference_mode(), autocast(device, precision):
        for x, given in Source(batches, device).open(0):
            if len(x) == 0:  # no rule has to know what to say of nothing
                continue
            scores, y = rule(x, **(inference or {})).float(), given
            missing = scores.isnan()
            unknown += (missing.flatten(1).any(dim=1) if missing.ndim > 1 else missing).sum()
            if y.ndim == 2 and scores.ndim == 3 and not y.is_floating_point() and y.shape == scores.shape[:2]:
                scores, y = scores.flatten(0, 1), y.flatten()
            classified = classified and _is_classification(scores, y)
            regression = regression and y.shape == scores.shape
            if classified:
                targets = check_labels(y, scores.shape[1]) if y.ndim == 1 else y
                nats += F.cross_entropy(scores, targets, reduction="sum")
                correct += (scores.argmax(dim=1) == (targets if targets.ndim == 1 else targets.argmax(dim=1))).sum()
            if regression:  # also where one batch's targets might be probabilities, as long as another's may not
                squares += (scores - y).square().mean() * len(scores)
            count += len(scores)
            if not (classified or regression):
                raise UserError("some batches have class indices for targets, and others numbers: evaluate them apart")
    if count == 0:
        raise UserError("there is nothing to evaluate: the batches are empty")
    if unknown:
        raise NonFiniteError(
            f"predictions are NaN for {int(unknown)} samples: look for NaN in what they are made of, or in the weights"
        )
    if classified:
        return {"accuracy": correct.item() / count, "loss": nats.item() / count, "count": count}
    return {"loss": squares.item() / count, "count": count}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bfloat16 for `"bf16"`, nothing for `"float32"`; says once where a processor has no bfloat16.

    Raises:
        UserError: The precision is none of these.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "bf16" and device.type == "cpu":
        _tell_of_slow_products()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 are fast on this processor: without AVX-512 they take fifty times as long."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    return platform.machine() not in ("x86_64", "AMD64") or bool(supported())


@functools.cache
def _tell_of_slow_products() -> None:
    if not multiplies_bfloat16():
        logger.warning("this processor multiplies bfloat16 far more slowly than float32: leave --precision bf16 out")


def _is_classification(scores: Tensor, y: Tensor) -> bool:
    if y.ndim == 1 and not y.is_floating_point() and scores.ndim == 2:
        return True
    if y.shape != scores.shape:
        raise UserError(f"targets of shape {tuple(y.shape)} do not fit scores of shape {tuple(scores.shape)}")
    return (
        scores.ndim == 2
        and scores.shape[1] > 1
        and bool(((y >= 0) & (y <= 1)).all() and (y.sum(1) - 1).abs().max() < 1e-4)
    )
