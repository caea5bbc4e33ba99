"""Exact Gauss-Newton targets: what target propagation approximates, computed from the Jacobians of small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from beyondprop.checks import check_number
from beyondprop.rules.signals.direct import Point
from beyondprop.rules.signals.direct_feedback import DirectRule
from beyondprop.rules.signals.layers import Gate, Kinds


class GaussNewtonTargets(DirectRule):
    r"""Gauss-Newton targets (Meulemans et al., arXiv 2006.14331, Section 3).

        u_i = J_i^+ e                                  without damping,   J_i = d h_L / d h_i,   e = dL / d h_L
        u_i = J_i^T (J_i J_i^T + lambda I)^{-1} e      with damping lambda
        target of h_i:  h_i - u_i,       grad W_i = (d h_i / d W_i)^T u_i

    for every hidden activation h_i, each sample by itself. u_i is the shortest move of h_i that moves the output by e,
    or by what comes closest to e; back-propagation's signal is J_i^T e, to which lambda u_i tends as lambda grows. The
    last layer receives e, the true derivative. A layer is taught by its own vector-Jacobian product, which is the
    gradient of half the squared distance of h_i to its target.

    The activations are the points that `DFA` teaches, in any network that it can train. All Jacobians of a batch come
    from one batched backward pass with a row for each number of the output, and stay in memory together: this is a
    reference, and a rule for small networks.

    With batch norm in training mode J_i holds what a sample does to the whole batch's outputs by its statistics.

    Args:
        network: Any module that returns one tensor.
        example: One input batch, run once without a trace.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        damping: lambda, in the units of J_i J_i^T; 0 takes the pseudo-inverse, in which singular values below the
            rounding error of the largest count as zero.
        whole: Classes of modules to be taken as one layer.

    Raises:
        UnsupportedNetworkError: The network has a layer that cannot be taught so; the message names it.
        UserError: The damping is negative or not finite.

    >>> rule = GaussNewtonTargets(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.zeros(1, 4))
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        damping: float = 0.0,
        whole: Kinds = (),
    ) -> None:
        super().__init__(network, example, loss, whole)
        check_number(damping=damping)
        self.damping = damping

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Find every point's Jacobian, and teach it by its Gauss-Newton step."""
        del phase
        points: list[Point] = []
        gate = Gate()
        with self._direct.watch(points.append, gate) as watch:
            scores = self.network(x)
            last = watch.claim(scores)
        loss, error = self.output_derivative(scores, x, y)
        rows = jacobians(scores, [point.edge for point in points])
        gate.open = False
        for point, jacobian in zip(points, rows, strict=True):
            if jacobian is not None:
                step = gauss_newton_step(jacobian, error.flatten(1), self.damping)
                point.teach_again(step.to(point.value.dtype).view_as(point.value))
        if last is not None:
            last.teach_again(error)
        return loss


def jacobians(scores: Tensor, edges: Sequence[GradientEdge]) -> list[Tensor | None]:
    """Differentiate every number of the output with respect to activations, each sample by itself.

    Args:
        scores: The network's output with its graph, which is kept; shape (batch, ...).
        edges: Of the activations.

    Returns:
        For each, of shape (batch, numbers of a sample's output, numbers of its activation); None where the output does
        not depend on it.
    """
    if not edges or scores.grad_fn is None:
        return [None] * len(edges)
    outputs = scores[0].numel()
    unit = torch.eye(outputs, dtype=scores.dtype, device=scores.device)
    rows = unit.view(outputs, 1, *scores.shape[1:]).expand(outputs, *scores.shape)
    found = torch.autograd.grad([scores], edges, [rows], retain_graph=True, allow_unused=True, is_grads_batched=True)
    return [None if part is None else part.flatten(2).movedim(0, 1) for part in found]


def gauss_newton_step(jacobian: Tensor, error: Tensor, damping: float) -> Tensor:
    """Solve for the step of an activation, each sample by itself.

    The system has the size of the output and is solved in float64, for squaring a Jacobian squares its condition.

    Args:
        jacobian: J, shape (batch, m, n).
        error: e, shape (batch, m).
        damping: lambda.

    Returns:
        J^T (J J^T + lambda I)^{-1} e, or J^+ e without damping; shape (batch, n), in the Jacobian's dtype.

    >>> gauss_newton_step(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[5.0]]), 0.0)
    tensor([[0.6000, 0.8000]])
    """
    gram = jacobian.double() @ jacobian.double().mT
    right = error.double().unsqueeze(-1)
    solved = _damped(gram, right, damping) if damping else None
    if solved is None:
        # The eigenvalues are squares of J's singular values, which are known to the precision of its own dtype.
        known = max(jacobian.shape[-2:]) * torch.finfo(jacobian.dtype).eps
        least = max(known**2, 4 * gram.shape[-1] * torch.finfo(gram.dtype).eps)
        values, vectors = torch.linalg.eigh(gram)
        kept = values > least * values.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(gram.dtype).tiny)
        inverse = torch.where(kept, 1 / (values.where(kept, torch.ones_like(values)) + damping), 0.0)
        solved = vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ right))
    return (jacobian.mT @ solved.to(jacobian.dtype)).squeeze(-1)


def _damped(gram: Tensor, right: Tensor, damping: float) -> Tensor | None:
    """Solve by Cholesky's factors; None where the damping is lost in the rounding error of a singular J J^T."""
    factor, failed = torch.linalg.cholesky_ex(gram + damping * torch.eye(gram.shape[-1]).to(gram))
    return None if failed.any() else torch.cholesky_solve(right, factor)
