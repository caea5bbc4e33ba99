"""A linear classifier of fixed features, whose gradient is written out."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import Rule, add_gradient, check_labels

PredictorLoss = Literal["cross-entropy", "sparsemax", "squared"]


class LinearPredictor(Rule):
    r"""The predictor of Cascaded Forward (Zhao et al., arXiv 2303.09728, Section 3.2): linear, on fixed features.

        Z = F Wᵀ,    grad W = (P - Y)ᵀ F / N

    for features F (N x D) and one-hot classes Y (N x C), where P is softmax(Z) for the cross-entropy, sparsemax(Z) for
    the sparsemax loss (Martins and Astudillo, arXiv 1602.02068, eq. (15)), and Z itself for half the squared error:
    one product, with no tensor larger than F and W.

    Args:
        features: D.
        classes: C.
        loss: Which of the three.
        bias: Whether there is one; the paper has none.

    Raises:
        UserError: `loss` is none of these; in `backward`, a label is no class index.
        NonFiniteError: In `backward`, when the loss is NaN or infinite; no `.grad` has changed.

    >>> rule = LinearPredictor(4, 3, loss="sparsemax")
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def __init__(
        self, features: int, classes: int, *, loss: PredictorLoss = "cross-entropy", bias: bool = False
    ) -> None:
        super().__init__()
        if loss not in ("cross-entropy", "sparsemax", "squared"):
            raise UserError(f"loss must be 'cross-entropy', 'sparsemax' or 'squared', got {loss!r}")
        self.loss = loss
        self.linear = nn.Linear(features, classes, bias=bias)
        nn.init.zeros_(self.linear.weight)  # the losses are convex: where they start is of no matter
        if bias:
            nn.init.zeros_(self.linear.bias)

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Predict from the inputs themselves; of the classifier nothing is used."""
        del network
        return cls(example[0].numel(), classes, **options)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Add the gradient to the weight's (and the bias's) `.grad`."""
        del phase
        y = check_labels(y, self.linear.out_features)
        device, dtype = x.device.type, self.linear.weight.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:  # which autocast leaves alone
            dtype = torch.get_autocast_dtype(device)
        # Cast here, once for both products: autocast would go on with the weight that it has cast before a step.
        with torch.no_grad(), torch.autocast(device, enabled=False):
            features = x.flatten(1).to(dtype)
            bias = None if self.linear.bias is None else self.linear.bias.to(dtype)
            scores = F.linear(features, self.linear.weight.to(dtype), bias)
            wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
            loss = self.loss_of(wide, y)
            if not loss.isfinite():
                raise NonFiniteError(
                    f"the loss of the predictor is {loss.item()}: check the layer's input for NaN, "
                    "or lower the learning rate"
                )
            error = self.link(wide)
            error[torch.arange(len(y), device=y.device), y] -= 1
            error /= len(y)
            add_gradient(self.linear.weight, (error.to(dtype).T @ features).to(self.linear.weight.dtype))
            if self.linear.bias is not None:
                add_gradient(self.linear.bias, error.sum(dim=0).to(self.linear.bias.dtype))
        return loss

    def loss_of(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of scores, shape (batch, classes)."""
        if self.loss == "cross-entropy":
            return F.cross_entropy(scores, y)
        if self.loss == "sparsemax":
            return sparsemax_loss(scores, y)
        return 0.5 * (scores - F.one_hot(y, scores.shape[1])).square().sum(dim=1).mean()

    def link(self, scores: Tensor) -> Tensor:
        """Return P of the gradient, shape (batch, classes), a new tensor."""
        return scores.clone() if self.loss == "squared" else self.probabilities(scores)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return what is said of the classes, shape (batch, classes): softmax, or sparsemax with its loss."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return sparsemax(scores) if self.loss == "sparsemax" else scores.softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, shape (batch, classes)."""
        return self.linear(x.flatten(1))


def sparsemax(scores: Tensor) -> Tensor:
    """Project each row onto the probability simplex (Martins and Astudillo, arXiv 1602.02068, Algorithm 1).

    Args:
        scores: Shape (batch, classes).

    Returns:
        Probabilities of the same shape, some of them zero.

    >>> sparsemax(torch.tensor([[0.5, 0.3, -2.0]]))
    tensor([[0.6000, 0.4000, 0.0000]])
    """
    scores = scores - scores.amax(dim=1, keepdim=True)  # where numbers are large, one less would be the same number
    return (scores - _threshold(scores)).clamp(min=0)


def sparsemax_loss(scores: Tensor, y: Tensor) -> Tensor:
    """Return the mean of -z_y + ½ Σ_{p>0} (z² - τ²) + ½ (arXiv 1602.02068, eq. (13)), whose gradient is p - onehot(y).

    Args:
        scores: z, shape (batch, classes).
        y: Class indices, shape (batch,).
    """
    scores = scores - scores.amax(dim=1, keepdim=True).detach()  # a shift changes nothing
    tau = _threshold(scores)
    inside = torch.where(scores > tau, scores.square() - tau.square(), 0.0)
    return (0.5 * inside.sum(dim=1) + 0.5 - scores.gather(1, y[:, None]).squeeze(1)).mean()


def _threshold(scores: Tensor) -> Tensor:
    """τ, shape (batch, 1)."""
    descending = scores.sort(dim=1, descending=True).values
    counts = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    excess = descending.cumsum(dim=1) - 1
    support = (counts * descending > excess).sum(dim=1, keepdim=True).clamp(min=1)  # none where a score is NaN
    return excess.gather(1, support - 1) / support
