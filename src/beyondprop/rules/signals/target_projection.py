"""Rules in which the target itself, randomly projected, teaches every hidden layer as soon as it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import check_labels, is_finite
from beyondprop.rules.signals.direct import Point
from beyondprop.rules.signals.direct_feedback import DirectRule, feedback_of, feedback_shape, ordered_as
from beyondprop.rules.signals.feedback import Feedback, kaiming_uniform
from beyondprop.rules.signals.layers import Kinds

LocalLoss = Callable[[Tensor, Tensor], Tensor]


class TargetProjection(DirectRule):
    """What DRTP and tpSGD share: hidden layer l has a loss of its own, between its activation h_l and B_l^T y*.

    y* is the one-hot target. Nothing but the target is needed, so each layer's gradient is computed when its activation
    is, and its graph is freed: the memory for activations does not grow with depth. The last layer receives the true
    derivative of the loss. Where signals enter is as in `DFA`.

    Args:
        network: Any module that returns one tensor; linear, convolutional, recurrent by cells, attention.
        example: One input batch, run once without a trace, to see the shapes of the activations.
        classes: Length of the target: the number of classes, or of the numbers in a target that is no class index.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        whole: Classes of modules to be taken as one layer; inside each, autograd differentiates.

    Raises:
        UnsupportedNetworkError: The network has a layer that cannot be taught so; the message names it.
        UserError: In `backward`, when a label is no class index, or an activation's shape is not that of the example.
        NonFiniteError: In `backward`, when an activation is NaN or infinite; the message names the layer. Layers before
            it have received their gradients by then.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        whole: Kinds = (),
    ) -> None:
        super().__init__(network, example, loss, whole)
        if classes < 1:
            raise UserError(f"classes must be at least 1, got {classes}")
        self.classes = classes
        like = next(iter(network.parameters()))
        self.feedback = Feedback(
            {
                name: self.draw(name, (classes, *feedback_shape(self._direct.scores, shape)[1:]), like)
                for name, shape in self._direct.shapes.items()
            }
        )

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself."""
        return cls(network, example, classes, **options)

    def draw(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draw one layer's feedback weights, of shape (classes, ...)."""
        del name
        return kaiming_uniform(shape, like)

    def signal(self, value: Tensor, projection: Tensor, count: int) -> Tensor:
        """The derivative of the layer's own loss with respect to its activation; a mean over the targets.

        Args:
            value: The activation, shape (batch, ...).
            projection: B^T y*, of the same shape; it may be changed.
            count: Of the targets: the batch, or the positions of all its sequences.
        """
        raise NotImplementedError

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Teach each layer as it is computed, and the last one by the loss."""
        del phase
        shared = max(1, len(self._direct.scores) - 1)  # dimensions of batch and positions
        targets = self._targets(y, shared)
        count = targets[..., 0].numel() if targets.is_floating_point() else targets.numel()

        def teach(point: Point) -> None:
            value = point.value.detach()
            if not is_finite(value):
                raise NonFiniteError(
                    f"the activation of layer {point.name} holds NaN or infinity: "
                    "check the data, or lower the learning rate"
                )
            feedback = feedback_of(self.feedback, point, shared)
            point.teach(self.signal(value, self._project(targets, feedback, value), count))

        with self._direct.watch(teach) as watch:
            scores = self.network(x)
            loss = self.measured(scores, x, y)
            last = watch.claim(loss)
            if last is not None:
                last.teach(torch.ones_like(loss))
        return loss

    def _targets(self, y: Tensor, shared: int) -> Tensor:
        """Class indices of shape (batch,) or (batch, T), or as many numbers as classes for each of them."""
        if not y.is_floating_point():
            if y.ndim != shared:
                raise UserError(f"class indices must have the scores' shape without the last: got {tuple(y.shape)}")
            return check_labels(y.flatten(), self.classes).view(y.shape)
        if shared == 1:
            y = y.reshape(len(y), -1)
        if y.shape[shared:] != (self.classes,):
            raise UserError(f"targets must hold {self.classes} numbers a sample, got shape {tuple(y.shape)}")
        return y

    def _project(self, targets: Tensor, feedback: Tensor, value: Tensor) -> Tensor:
        def product(weights: Tensor) -> Tensor:
            if targets.is_floating_point():
                found = targets.to(feedback.dtype) @ weights.flatten(1)
            else:  # the product with a one-hot vector is a row
                found = weights.index_select(0, targets.flatten())
            return found.to(value.dtype).view(*value.shape[: value.ndim - weights.ndim + 1], *weights.shape[1:])

        return ordered_as(value, feedback, product)


class DRTP(TargetProjection):
    """Direct random target projection (Frenkel, Lefebvre and Bol, arXiv 1909.01311, Section 2).

        delta_l = (B_l^T y*) * f'(z_l) / N,    grad W_l = delta_l h_{l-1}^T

    for a batch of N: the mean over the batch, where the official code takes its sum, so that hidden layers and last one
    have learning rates on one scale.

    Args: as `TargetProjection`.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> rule = DRTP(network, example=torch.zeros(1, 4), classes=3)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def signal(self, value: Tensor, projection: Tensor, count: int) -> Tensor:
        """The projected target itself."""
        del value
        return projection.div_(count)


class TPSGD(TargetProjection):
    """Target projection stochastic gradient descent (Lomnitz, Daniels, Zhang and Piacentino, arXiv 2208.08503).

        J_l = l(h_l, P_l y*),    grad W_l = dJ_l/dW_l with h_{l-1} held fixed

    with a local loss l of the differences P y* - h: `"l2"` half their squares, `"l1"` their sizes, `"linear"`
    -<P y*, h>, which is DRTP with B = -P^T; or any function of (activation, target) that gives a scalar for the batch.
    The built-in ones are summed over the activation and averaged over the batch.

    The paper's tables, the range of P and its recurrent equations are not public. Here P is `target_scale` times what
    the activation can reach: U(-0.9, 0.9) for tanh and its like, U(0.1, 0.9) for sigmoids, U(0, 1) for rectifiers, and
    U(-1, 1) otherwise. With 1 every class can collapse on its target, and then little is left of the image; with 5, the
    default, a bounded activation never arrives, and learns more. Recurrent networks are written with cells
    (`nn.RNNCell`, `nn.GRUCell`, `nn.LSTMCell`); every step's state has the target P y*, with the state before it held
    constant, so that nothing is unrolled: that is our reading.

    Args:
        network, example, classes, loss, whole: As `TargetProjection`.
        local_loss: `"l2"`, `"l1"`, `"linear"`, or a function.
        target_scale: Of P; positive.

    Raises:
        UserError: `local_loss` is none of these, or `target_scale` is not positive.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> rule = TPSGD(network, example=torch.zeros(1, 4), classes=3, local_loss="l1")
    >>> bool(rule.feedback["0"].abs().max() <= 4.5)
    True
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        local_loss: Literal["l2", "l1", "linear"] | LocalLoss = "l2",
        target_scale: float = 5.0,
        whole: Kinds = (),
    ) -> None:
        if not callable(local_loss) and local_loss not in _PULLS:
            raise UserError(f"local_loss must be a function or one of {', '.join(_PULLS)}, got {local_loss!r}")
        if not target_scale > 0:
            raise UserError(f"target_scale must be positive, got {target_scale}")
        self.local_loss, self.target_scale = local_loss, target_scale
        super().__init__(network, example, classes, loss, whole=whole)

    def draw(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draw targets that the activation can reach."""
        kind = self._direct.activations.get(name, nn.Identity)
        low, high = next((reach for kinds, reach in _REACH.items() if issubclass(kind, kinds)), (-1.0, 1.0))
        drawn = torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(low, high)
        return drawn.mul_(self.target_scale)

    def signal(self, value: Tensor, projection: Tensor, count: int) -> Tensor:
        """The local loss's derivative."""
        if not callable(self.local_loss):
            return _PULLS[self.local_loss](value, projection).div_(-count)
        value = value.requires_grad_()
        loss = self.local_loss(value, projection)
        return torch.autograd.grad(loss, value)[0]


# Against the derivative, computed in the target's own memory.
_PULLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda value, target: target.sub_(value),
    "l1": lambda value, target: target.sub_(value).sign_(),
    "linear": lambda _value, target: target,
}
_REACH = {  # in this order: torch's ReLU6 is a Hardtanh
    (nn.ReLU, nn.ReLU6, nn.Softplus): (0.0, 1.0),
    (nn.Tanh, nn.Softsign, nn.Hardtanh, nn.Tanhshrink): (-0.9, 0.9),
    (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax): (0.1, 0.9),
}
