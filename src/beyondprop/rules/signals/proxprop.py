"""Proximal back-propagation: each layer's weights take an implicit step towards what its outputs should be."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from beyondprop.errors import UserError
from beyondprop.rules.signals.affine import Ridge, conjugate_gradients
from beyondprop.rules.signals.consequential import OutputwiseRule


class ProxProp(OutputwiseRule):
    """Proximal back-propagation (Frerix, Möllenhoff, Moeller and Cremers, arXiv 1706.04638, Algorithm 2).

        z' = z - dL/dz,    W' = argmin_W 1/2 |W X - z'|^2 + 1/(2 tau) |W - W_k|^2,    .grad = W_k - W'

    z is the output of a linear or convolutional layer, L the mean over the batch. With learning rate 1 SGD takes the
    proximal step itself. The minimum is W_k - dL/dz X^T (X X^T + I/tau)^-1, `BPC`'s step with c = 1/tau, divided by
    the batch's length. As tau -> 0 `.grad` becomes tau dL/dW.

    It is found exactly, by a Cholesky factor, or approached by conjugate gradients that start at W_k. All layers take
    the proximal step, the last one too, which the authors' experiments leave to the gradient.

    Args:
        network: Any module with a linear or convolutional layer; other layers have their ordinary gradient.
        loss: Maps (network(x), y) to a scalar, the mean over the batch. Default: mean cross-entropy over class scores.
            Its own parameters have their ordinary gradient.
        tau: Step size of the proximal step, positive.
        cg_steps: Conjugate-gradient steps; None for the exact minimum.

    Raises:
        UserError: `tau` is not positive, `cg_steps` less than 1, or, when it steps, a layer's input was changed in
            place after the layer had read it.
        UnsupportedNetworkError: The network has no linear or convolutional layer.

    >>> import torch
    >>> rule = ProxProp(nn.Linear(4, 3), tau=1e-4)
    >>> x, y = torch.ones(2, 4), torch.tensor([0, 2])
    >>> loss = rule.backward(x, y)
    >>> gradient = torch.autograd.grad(rule.loss(rule(x), y), rule.network.weight)[0]
    >>> torch.allclose(rule.network.weight.grad, 1e-4 * gradient, rtol=1e-2)
    True
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        tau: float = 1.0,
        cg_steps: int | None = None,
    ) -> None:
        if not tau > 0:
            raise UserError(f"tau must be positive, got {tau}")
        if cg_steps is not None and cg_steps < 1:
            raise UserError(f"cg_steps must be at least 1, or None for the exact step, got {cg_steps}")
        super().__init__(network, loss)
        self.tau = tau
        self.cg_steps = cg_steps

    def change(self, rows: Tensor, delta: Tensor, terms: float | Tensor) -> Tensor:
        """Minimise over the change: W_k is where it is 0."""
        del terms
        if self.cg_steps is None:
            return Ridge(rows, 1 / self.tau).solve(delta)
        return conjugate_gradients(rows, delta, 1 / self.tau, self.cg_steps)
