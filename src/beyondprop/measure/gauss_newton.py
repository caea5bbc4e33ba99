"""How a rule's update stands to the Gauss-Newton one, and how much of it leaves the network's output where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from beyondprop.checks import check_whole
from beyondprop.errors import UserError
from beyondprop.layers.batch_norms import mixes_samples
from beyondprop.measure.alignment import compared, layer_of, restored, updates_of
from beyondprop.rule import Rule
from beyondprop.rules.signals.direct import UNROLLED
from beyondprop.rules.signals.gauss_newton import GaussNewtonTargets, jacobians
from beyondprop.rules.signals.layers import computes_as, find_layers

SAMPLES = 8


@dataclass(frozen=True)
class GaussNewtonAlignment:
    """One layer's update beside the Gauss-Newton update of the same loss on the same samples.

    Attributes:
        angle: Between the two, in degrees from 0 to 180; None where one of them is zero or not finite.
        norm_ratio: Euclidean norm of the rule's update over that of the Gauss-Newton one; None where that is zero or
            one of them is not finite.
        null_space: Share of the update's norm, in 0..1, that lies where the output does not move; None where the update
            is zero or not finite.
    """

    angle: float | None
    norm_ratio: float | None
    null_space: float | None


def gauss_newton_alignment(
    rule: Rule, x: Tensor, y: Tensor, phase: str | None = None, *, damping: float = 0.01, samples: int = SAMPLES
) -> dict[str, GaussNewtonAlignment]:
    r"""Compare what a rule writes into `.grad` with the updates of Gauss-Newton targets (arXiv 2006.14331, Section 4).

        angle = arccos( <g, u> / (|g| |u|) ),       null space = | g - J^+ J g | / |g|

    for the rule's update g of one layer, the update u that `GaussNewtonTargets` gives it, and the Jacobian
    J = d(outputs of all samples) / d(parameters of the layer). A step along the second part of g moves no output of any
    of these samples, to first order. Back-propagation's and Gauss-Newton updates have no such part, for both are sums
    of rows of J; a rule whose signals do not go through J has one.

    Layers that unroll over time by themselves (nn.RNN, nn.LSTM, nn.GRU) count as one layer each, with
    targets for its outputs.

    A layer's bias counts as one of its parameters, in g as in J. The paper's code looks at weights alone: without the
    bias, through which each sample moves every output, its ratios are others.

    The ratio falls as samples are added, for they leave fewer directions in which no output moves: compare rules by
    the same number.

    Nothing is changed: weights, statistics and other buffers, generators and what stands in `.grad` are as before.

    Args:
        rule: One around a network, with `rule.network` and `rule.loss`.
        x: Inputs, first dimension the batch.
        y: Targets, first dimension the batch.
        phase: One of the rule's phases; by default the first that teaches the network.
        damping: Of the Gauss-Newton targets, in the units of J_i J_i^T of the hidden activations. By 0 directions count
            in which the output hardly moves; the larger, the closer u comes to the gradient.
        samples: How many of the batch are looked at, the first ones; memory and time grow with it.

    Returns:
        By the name that the layer has in the rule, as in `alignment`.

    Raises:
        UserError, NonFiniteError: As `rule.backward`; or the rule has no network and loss, or Gauss-Newton targets do
            not reach its layers.

    >>> rule = GaussNewtonTargets(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.zeros(1, 4))
    >>> found = gauss_newton_alignment(rule, torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), damping=0.0)
    >>> found["network.0"].angle
    0.0
    """
    check_whole(1, samples=samples)
    network, loss = getattr(rule, "network", None), getattr(rule, "loss", None)
    if not (isinstance(network, nn.Module) and callable(loss)):
        raise UserError(
            f"{type(rule).__name__} has no network with a loss on its output, which Gauss-Newton updates are made from"
        )
    x, y = x[:samples], y[:samples]
    if not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool):
        y = y.long()
    reference = GaussNewtonTargets(
        network, x[:1], lambda scores, targets: loss(scores, targets).mean(), damping=damping, whole=UNROLLED
    )
    named = {name: parameter for name, parameter in rule.named_parameters() if parameter.requires_grad}
    with _row_by_row(network):
        updates = dict(zip(named, updates_of(rule, list(named.values()), x, y, phase), strict=True))
        aligned = compared(list(named), list(updates.values()), updates_of(reference, list(named.values()), x, y))
    found = {}
    with restored(rule), torch.enable_grad(), _row_by_row(network):
        moves = _Moves(network, x)
        for layer, angles in aligned.items():
            own = {
                name.rpartition(".")[2]: (parameter, update.double())
                for name, parameter in named.items()
                if layer_of(name) == layer and (update := updates[name]) is not None
            }
            norm = sum(float(update.square().sum()) for _, update in own.values()) ** 0.5
            share = moves.outside(rule.get_submodule(layer), own) / norm if 0 < norm < math.inf else None
            found[layer] = GaussNewtonAlignment(angles.angle, angles.norm_ratio, share)
    return found


@contextmanager
def _row_by_row(network: nn.Module) -> Iterator[None]:
    """Let recurrent layers be differentiated for many rows at once, which cuDNN's kernel for whole sequences cannot."""
    cudnn = torch.backends.cudnn
    recurrent = any(isinstance(module, UNROLLED) for module in network.modules())
    with cudnn.flags(
        enabled=cudnn.enabled and not recurrent,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=cudnn.allow_tf32,
    ):
        yield


Own = dict[str, tuple[nn.Parameter, Tensor]]


class _Moves:
    """How the outputs of some samples move with the parameters of each layer.

    Where samples do not act on each other, a row of a linear layer's Jacobian is an outer product; rows are written out
    for other layers only.
    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        seen: dict[nn.Module, list[tuple[Tensor, GradientEdge]]] = {}

        def note(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                seen.setdefault(layer, []).append((args[0].detach(), get_gradient_edge(output)))

        alone = not mixes_samples(network)
        linear = [layer for layer in find_layers(network).values() if alone and computes_as(layer, (nn.Linear,))]
        hooks = [layer.register_forward_hook(note) for layer in linear]
        try:
            self._scores = network(x)
        finally:
            for hook in hooks:
                hook.remove()
        once = {layer: calls[0] for layer, calls in seen.items() if len(calls) == 1 and calls[0][0].ndim == 2}
        signals = jacobians(self._scores, [edge for _, edge in once.values()])
        self._factors = {
            layer: (signal.double(), given.double())
            for (layer, (given, _)), signal in zip(once.items(), signals, strict=True)
            if signal is not None
        }

    def outside(self, layer: nn.Module, own: Own) -> float:
        """The norm of the part of a layer's update by which no output moves."""
        if layer in self._factors:
            left = _outside_linear(*self._factors[layer], **{name: update for name, (_, update) in own.items()})
        else:
            left = outside(self._rows([p for p, _ in own.values()]), torch.cat([u.flatten() for _, u in own.values()]))
        return float(left.norm())

    def _rows(self, parameters: list[nn.Parameter]) -> Tensor:
        """A layer's Jacobian, a row for each number of the scores."""
        scores = self._scores
        unit = torch.eye(scores.numel(), dtype=scores.dtype, device=scores.device).view(-1, *scores.shape)
        found = torch.autograd.grad([scores], parameters, [unit], retain_graph=True, is_grads_batched=True)
        return torch.cat([part.flatten(1) for part in found], dim=1)


def _outside_linear(signal: Tensor, given: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """As `outside`, of updates of a linear layer whose rows are `signal[b, m] given[b]^T` and, of the bias, `signal`.

    Args:
        signal: d(scores) / d(the layer's outputs), shape (batch, m, outputs).
        given: The layer's inputs, shape (batch, inputs).
        weight: Its update; None where it does not learn.
        bias: Likewise.
    """
    rows = signal.flatten(0, 1)
    alike = given @ given.mT if weight is not None else torch.zeros_like(given @ given.mT)
    alike = alike + (bias is not None)
    gram = (rows @ rows.mT).view(*signal.shape[:2], *signal.shape[:2]) * alike[:, None, :, None]
    move = torch.zeros_like(signal[:, 0])
    if weight is not None:
        move = move + given @ weight.mT
    if bias is not None:
        move = move + bias
    moved = (signal @ move.unsqueeze(-1)).flatten()
    taken = (_solved(gram.flatten(2).flatten(0, 1), moved).view(signal.shape[:2]).unsqueeze(1) @ signal).squeeze(1)
    left = []
    if weight is not None:
        left.append((weight - taken.mT @ given).flatten())
    if bias is not None:
        left.append(bias - taken.sum(dim=0))
    return torch.cat(left)


def outside(jacobian: Tensor, update: Tensor) -> Tensor:
    """The part of an update that a Jacobian sends to zero.

    Args:
        jacobian: Shape (rows, n).
        update: Shape (n,).

    Returns:
        g - J^+ J g, in float64.

    >>> outside(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([1.0, 2.0, 3.0]))
    tensor([0., 0., 3.], dtype=torch.float64)
    """
    jacobian, update = jacobian.double(), update.double()
    return update - jacobian.mT @ _solved(jacobian @ jacobian.mT, jacobian @ update)


def _solved(gram: Tensor, moved: Tensor) -> Tensor:
    """(J J^T)^+ J g. Directions in which no more than rounding in float32 is left of the largest count as none."""
    values, vectors = torch.linalg.eigh(gram)
    least = (len(gram) * torch.finfo(torch.float32).eps) ** 2 * values.max()
    kept = vectors[:, values > least]
    return kept @ ((kept.mT @ moved) / values[values > least])
