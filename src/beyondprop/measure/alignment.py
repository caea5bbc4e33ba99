"""How far a rule's update points away from back-propagation's gradient, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.rule import Rule


@dataclass(frozen=True)
class Alignment:
    """One layer's update beside back-propagation's gradient of the same loss on the same batch.

    Attributes:
        angle: Between the two, in degrees from 0 (the same direction) over 90 (nothing in common) to 180; None where
            one of them is zero or not finite, so that there is no angle.
        norm_ratio: Euclidean norm of the rule's update over that of the gradient; None where the gradient is zero or
            one of them is not finite.
    """

    angle: float | None
    norm_ratio: float | None


def alignment(
    rule: Rule,
    x: Tensor,
    y: Tensor,
    phase: str | None = None,
    *,
    by: Literal["layer", "parameter"] = "layer",
) -> dict[str, Alignment]:
    r"""Compare what a rule writes into `.grad` with back-propagation's gradient.

        angle = arccos( <g, b> / (|g| |b|) ),        norm ratio = |g| / |b|

    for the rule's update g and back-propagation's gradient b, both of one layer as one long vector. A step along -g
    lowers the loss to first order where the angle is below 90 degrees: feedback alignment learns by bringing it there
    (Lillicrap et al., 2016, doi 10.1038/ncomms13276, Fig. 2).

    Back-propagation differentiates the loss by which the rule itself is measured: `rule.loss(rule.network(x), y)` where
    the rule has both, else the cross-entropy of its own prediction, `rule(x)`. It draws the same random numbers as the
    rule's `backward`, from the state in which the generators are found, so that dropout drops the same units.

    Nothing is changed: weights, statistics and other buffers, generators and what stands in `.grad` are as before.

    Args:
        rule: Any; in the mode, training or evaluation, that is to be compared.
        x: Inputs, first dimension the batch.
        y: Targets, first dimension the batch.
        phase: One of the rule's phases; by default the first that teaches the network.
        by: Whether all parameters of a layer make one vector, or each parameter its own.

    Returns:
        By the name that the layer or the parameter has in the rule, in the rule's order. A layer is a module with
        parameters of its own. What is frozen, what this phase does not train and what the differentiated prediction
        does not reach (feedback weights, a network whose prediction is no differentiable function of it) is left out.

    Raises:
        UserError, NonFiniteError: As `rule.backward`.

    >>> from beyondprop.rules.signals.backprop import Backprop
    >>> rule = Backprop(nn.Linear(4, 3))
    >>> alignment(rule, torch.ones(2, 4), torch.tensor([0, 2]))
    {'network': Alignment(angle=0.0, norm_ratio=1.0)}
    """
    names = {name: parameter for name, parameter in rule.named_parameters() if parameter.requires_grad}
    parameters = list(names.values())
    updates = updates_of(rule, parameters, x, y, phase)
    return compared(list(names), updates, _gradients(rule, parameters, x, y), by=by)


def compared(
    names: Sequence[str],
    updates: Sequence[Tensor | None],
    others: Sequence[Tensor | None],
    *,
    by: Literal["layer", "parameter"] = "layer",
) -> dict[str, Alignment]:
    """As `alignment`, of updates that are known: of each name's parameter the one, and what it is compared with."""
    products: dict[str, Tensor] = {}
    for name, update, gradient in zip(names, updates, others, strict=True):
        if update is not None and gradient is not None:
            key = name if by == "parameter" else layer_of(name)
            products[key] = products.get(key, 0) + _products(update, gradient)
    rows = torch.stack(list(products.values())).tolist() if products else []  # read from the device at once
    return {name: _compared(*row) for name, row in zip(products, rows, strict=True)}


def layer_of(name: str) -> str:
    """The name of the layer that a parameter of a rule belongs to."""
    return name.rpartition(".")[0] or "rule"


def updates_of(
    rule: Rule, parameters: Sequence[Tensor], x: Tensor, y: Tensor, phase: str | None = None
) -> list[Tensor | None]:
    """What a rule would write into the `.grad` of some parameters, None where they are not its; nothing is changed."""
    if phase is None and None not in rule.phases:
        phase = next((one for one in rule.phases if rule.teaches_network(one)), None)
    with restored(rule):
        rule.backward(x, y, phase)
        own = {id(parameter): parameter.grad for parameter in rule.parameters()}
    return [own.get(id(parameter)) for parameter in parameters]


def _gradients(rule: Rule, parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> Sequence[Tensor | None]:
    """Back-propagation's gradients of the rule's loss."""
    with restored(rule), torch.enable_grad():
        loss = _loss(rule, x, y)
        if loss.requires_grad:
            return torch.autograd.grad(loss, parameters, allow_unused=True)
    return [None] * len(parameters)


def _loss(rule: Rule, x: Tensor, y: Tensor) -> Tensor:
    """The loss that back-propagation differentiates."""
    network, loss = getattr(rule, "network", None), getattr(rule, "loss", None)
    if not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool):
        y = y.long()  # rules take labels of any integer type, torch's losses do not
    if isinstance(network, nn.Module) and callable(loss):
        found: Tensor = loss(network(x), y)
        return found.mean()  # of rules that hear each sample's own
    return F.cross_entropy(rule(x), y)


def _products(g: Tensor, b: Tensor) -> Tensor:
    """<g, b>, <g, g> and <b, b>, where complex numbers count as pairs of real ones."""
    g, b = (torch.view_as_real(t) if t.is_complex() else t for t in (g, b))
    g, b = g.detach().flatten().double(), b.detach().flatten().double()
    return torch.stack([g @ b, g @ g, b @ b])


def _compared(product: float, update: float, gradient: float) -> Alignment:
    """From the sums of products over a layer."""
    if not (math.isfinite(update) and math.isfinite(gradient)) or gradient == 0:
        return Alignment(None, None)
    ratio = math.sqrt(update / gradient)
    if update == 0:
        return Alignment(None, ratio)
    squared = min(1.0, (product / update) * (product / gradient))  # of the cosine; 1 exactly for equal vectors
    radians = math.atan2(math.sqrt(1 - squared), math.copysign(math.sqrt(squared), product))
    return Alignment(math.degrees(radians), ratio)


@contextmanager
def restored(rule: Rule) -> Iterator[None]:
    """Within it, `.grad` is empty; afterwards the rule and torch's generators are as they were, bit for bit."""
    gradients = [(parameter, parameter.grad) for parameter in rule.parameters()]
    tensors: list[tuple[dict[str, Any], str, Tensor, Tensor]] = [
        (place, name, tensor, tensor.detach().clone())
        for module in rule.modules()
        for place in (module._parameters, module._buffers)
        for name, tensor in place.items()
        if tensor is not None
    ]
    devices = {tensor.device for _, _, tensor, _ in tensors if tensor.device.type == "cuda"}
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for place, name, tensor, value in tensors:
                place[name] = tensor  # a rule may have put another one in its place
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
