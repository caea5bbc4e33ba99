"""Rules in which the output's error goes straight to every hidden layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rule import add_gradient
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.signals.direct import Direct, Point
from beyondprop.rules.signals.feedback import Feedback, kaiming_uniform
from beyondprop.rules.signals.feedback_alignment import two_groups
from beyondprop.rules.signals.layers import Kinds


class DirectRule(NetworkRule):
    """What rules share whose signals go straight to the points that `Direct` finds.

    Args:
        network, example, loss, whole: As `DFA`.

    Raises:
        UnsupportedNetworkError: The network has a layer that cannot be taught so; the message names it.
    """

    follows_gradient = False

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None,
        whole: Kinds,
    ) -> None:
        super().__init__(network, loss, supports=partial(Direct.objection, whole=whole))
        self._direct = Direct(network, example, whole, others=self.parameters())

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Layers that unroll over time by themselves are refused, as is a network without any."""
        return Direct.objection(network)

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; `classes` is not needed."""
        del classes
        return cls(network, example, **options)


class DFA(DirectRule):
    r"""Direct feedback alignment (Nøkland, arXiv 1609.01596, eq. 8).

        delta_l = (B_l e) * f'(z_l),    e = dL/d(scores),    grad W_l = delta_l h_{l-1}^T

    The error of the network's output reaches the activation of each hidden layer by a fixed random matrix of its own;
    the last layer receives the true derivative. No signal passes from layer to layer, so no layer's gradient with
    respect to its input is ever computed.

    A signal enters where an activation module gives its output, or where the next layer takes its input, whichever
    comes first; from there the derivative of what lies between brings it to the layer, through norms, attention
    products and sums. In a residual network each block is taught at the point behind it, and nothing passes on along
    the skip connections. Layers that share a point (query, key and value) share its signal.

    Args:
        network: Any module that returns one tensor; linear, convolutional, recurrent by cells, attention.
        example: One input batch, run once without a trace, to see the shapes of the activations.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        whole: Classes of modules to be taken as one layer, such as `nn.TransformerEncoderLayer`; inside each, autograd
            differentiates.

    Raises:
        UnsupportedNetworkError: The network has a layer that cannot be taught so; the message names it.
        UserError: In `backward`, when an activation's shape is not that of the example.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> rule = DFA(network, example=torch.zeros(1, 4))
    >>> rule.feedback["0"].shape  # scores, then the activation's own shape
    torch.Size([3, 8])
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    learned = False

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        whole: Kinds = (),
    ) -> None:
        super().__init__(network, example, loss, whole)
        like = next(iter(network.parameters()))
        weights = {
            name: kaiming_uniform(feedback_shape(self._direct.scores, shape), like)
            for name, shape in self._direct.shapes.items()
        }
        self.feedback = Feedback(weights, learned=self.learned)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Compute the error, and send it to every point."""
        del phase
        points: list[Point] = []
        with self._direct.watch(points.append) as watch:
            scores = self.network(x)
            last = watch.claim(scores)
            loss, error = self.output_derivative(scores, x, y)
            if last is not None:
                last.teach(error)
            error = self.signal_from(error)
            for point in points:
                self.teach(point, error)
        return loss

    def signal_from(self, error: Tensor) -> Tensor:
        """What is sent to the hidden layers, of the shape of the scores."""
        return error

    def teach(self, point: Point, error: Tensor) -> None:
        """Project the error to one point."""
        feedback = feedback_of(self.feedback, point, error.ndim - 1)
        point.teach(projected(error, feedback.detach(), point.value))


class SignDFA(DFA):
    """Direct feedback alignment by the error's sign (Frenkel, Lefebvre and Bol, arXiv 1909.01311, Section 2).

        delta_l = (B_l sign(e)) * f'(z_l) / N

    for a batch of N, or N positions of all its sequences, so that the signal has the scale of a mean over them, as the
    last layer's has.

    All classes but the true one have a positive error, so the signs have a part in common that pushes each neuron one
    way, whatever the sample. `centred=True`, a variation of our own and not the paper's, takes it out: sign(e) minus
    its mean over the classes, which sums to zero as e itself does. For softmax with cross-entropy and C classes that is
    2 (1/C - y*), so that the hidden layers learn from the centred target alone.

    Args: as `DFA`, and
        centred: Whether the signs' mean over the classes is taken out.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        whole: Kinds = (),
        centred: bool = False,
    ) -> None:
        super().__init__(network, example, loss, whole=whole)
        self.centred = centred

    def signal_from(self, error: Tensor) -> Tensor:
        """Its sign, centred over the classes where that is chosen."""
        sign = error.sign()
        if self.centred:
            sign = sign - sign.mean(dim=-1, keepdim=True)
        return sign / error[..., 0].numel()


class DirectKolenPollack(DFA):
    """Direct feedback that is learned (Webster, Choi and Ahn, "Learning the connections in DFA", 2020).

        grad B_l = e h_l^T

    which is the gradient of a weight that would lead from the activation h_l straight to the scores, as Kolen and
    Pollack's rule has it. The optimizer's weight decay should be positive, and the same for both groups.

    Args: as `DFA`.
    """

    learned = True

    def teach(self, point: Point, error: Tensor) -> None:
        """Project the error to one point, and let the feedback learn from both."""
        super().teach(point, error)
        feedback = feedback_of(self.feedback, point, error.ndim - 1)
        value = point.value.detach()
        if error.ndim > 2:
            error, value = error.flatten(0, -2), value.flatten(0, error.ndim - 2)
        add_gradient(feedback, (error.t() @ value.flatten(1).to(error.dtype)).view_as(feedback).to(feedback.dtype))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network and the feedback."""
        return two_groups(self.network, self.feedback)


def feedback_of(feedback: Feedback, point: Point, shared: int = 1) -> Tensor:
    """Find a point's feedback weights.

    Args:
        feedback: Of all points.
        point: That which is to be taught.
        shared: How many dimensions of its value the same weights serve: the batch, and the positions if there are any.

    Raises:
        UserError: There are none for a point of this name and shape.
    """
    if point.name not in feedback:
        raise UserError(
            f"layer {point.name} was not evaluated with `example`, or what is frozen has changed since: make the rule "
            "anew, with an example that takes the same way through the network"
        )
    weights = feedback[point.name]
    shape = point.value.shape[shared:]
    if weights.shape[1:] != shape:
        raise UserError(
            f"the activation of layer {point.name} has shape {tuple(shape)}, with `example` it had "
            f"{tuple(weights.shape[1:])}: feedback weights are made for one shape"
        )
    return weights


def projected(error: Tensor, feedback: Tensor, value: Tensor) -> Tensor:
    """Send an error of shape (batch, C) or (batch, T, C) through feedback of shape (C, ...) to a value's shape."""

    def product(weights: Tensor) -> Tensor:
        found = error @ weights.flatten(1).to(error.dtype)
        return found.to(value.dtype).view(*error.shape[:-1], *weights.shape[1:])

    return ordered_as(value, feedback, product)


def ordered_as(value: Tensor, feedback: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute a signal in the order that its activation has in memory, or all that follows would be slower.

    Args:
        value: The activation, shape (batch, ...).
        feedback: Weights of shape (C, ...).
        product: Makes the signal from weights whose dimensions after the first may be in another order.
    """
    if value.ndim == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last):
        return product(feedback.movedim(1, -1)).movedim(-1, 1)
    return product(feedback)


def feedback_shape(scores: torch.Size, value: torch.Size) -> tuple[int, ...]:
    """One error a sample reaches all of its activation; one a position, each position by the same weights."""
    if len(scores) == 2:
        return (scores[1], *value)
    if len(scores) == 3 and value[: len(scores) - 2] == scores[1:-1]:
        return (scores[-1], *value[len(scores) - 2 :])
    raise UnsupportedNetworkError(
        f"scores of shape {tuple(scores)} cannot be sent to an activation of shape {tuple(value)}: the network must "
        "give scores of shape (batch, C), or (batch, T, C) with activations of shape (batch, T, ...)"
    )
