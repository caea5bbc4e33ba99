"""Rules whose signal goes from layer to layer by feedback weights in place of the transposed forward weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.inputs import check_example, running_example
from beyondprop.layers.grouped_linear import GroupedLinear
from beyondprop.rule import add_gradient, evaluating
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.signals.chained import Signals, chained
from beyondprop.rules.signals.feedback import Feedback
from beyondprop.rules.signals.layers import (
    Call,
    Kinds,
    computes_as,
    find_layers,
    intercepted,
    reachable,
    unfrozen,
    weight_of,
)

Magnitude = Literal["uniform", "fixed", "batch"]


KINDS: Kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, GroupedLinear)
"""Layers that are linear in their input, or take none that a signal could pass."""


class ChainedFeedback(NetworkRule):
    """What rules with chained feedback share: layer l receives B_{l+1} in place of W_{l+1}^T.

        delta_l = (B_{l+1}^T delta_{l+1}) * f'(z_l),    grad W_l = delta_l h_{l-1}^T

    B has W's shape, and is applied where W's transpose would be: a linear layer's as a matrix, a convolution's as the
    convolution's adjoint, with the same stride, padding, dilation and groups. What lies between layers (activations,
    norms, pooling, sums) passes signals by its own derivative. Subclasses say what B is.

    Args:
        network: Any module whose layers are linear, convolutions and embeddings; residual and branching ones too.
        example: One input batch, run once without a trace, to see which layers a signal passes through.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.

    Raises:
        UnsupportedNetworkError: The network has a layer of another kind; the message names it.
    """

    follows_gradient = False

    def __init__(
        self, network: nn.Module, example: Tensor, loss: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(network, loss)
        layers = find_layers(network)
        passed = _passed_through(network, layers, example)
        self._layers = layers
        self.feedback = self.make_feedback({name: weight_of(layers[name]) for name in passed})

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; `classes` is not needed."""
        del classes
        return cls(network, example, **options)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Every layer must be linear in its input: feedback weights have no meaning for others."""
        layers = find_layers(network)
        for name, layer in layers.items():
            if not computes_as(layer, KINDS):
                return (
                    f"layer {name or 'network'} is {type(layer).__name__}, and feedback weights are defined for linear "
                    "layers, convolutions and embeddings: build it from these, or use direct feedback alignment"
                )
        return None if layers else "the network has no layer with weights: nothing can be trained"

    @abstractmethod
    def make_feedback(self, weights: dict[str, Tensor]) -> Feedback:
        """Make what the feedback is built from.

        Args:
            weights: Of the layers that pass signals on, by name.
        """

    @abstractmethod
    def feedback_for(self, name: str, weight: Tensor) -> Tensor:
        """Tell B of a layer, of the shape of its weight."""

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Send the loss's derivative down by the feedback weights."""
        del phase
        with chained(self._layers, self._pass_on):
            scores = self.network(x)
            loss = self.measured(scores, x, y)
            loss.backward()
        return loss

    def _pass_on(self, call: Call, signals: Signals) -> Signals:
        (signal,), (given,) = signals, call.given
        assert signal is not None  # a layer of these kinds has one output
        weight = self.feedback_for(call.name, weight_of(call.layer)).to(signal.dtype)
        return [transposed(call.layer, weight, signal, given.shape).to(given.dtype)]


class FeedbackAlignment(ChainedFeedback):
    """Feedback alignment (Lillicrap, Cownden, Tweed and Akerman, Nature Communications 7:13276, 2016; arXiv 1411.0247).

    B is random and fixed, drawn as the layer's own `reset_parameters` draws its weight. With B = W it is
    back-propagation.

    Args: as `ChainedFeedback`.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> rule = FeedbackAlignment(network, example=torch.zeros(1, 4))
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def make_feedback(self, weights: dict[str, Tensor]) -> Feedback:
        """Draw fixed random weights."""
        return Feedback({name: initial(self._layers[name]) for name in weights})

    def feedback_for(self, name: str, weight: Tensor) -> Tensor:
        """The fixed one."""
        del weight
        return self.feedback[name]


class SignSymmetry(ChainedFeedback):
    """Sign-symmetric feedback (Liao, Leibo and Poggio, AAAI 2016, arXiv 1510.05067).

        B = M * sign(W)

    M > 0 is, by `magnitude`: `"uniform"` (uSF) one number a layer, the root mean square of an initial weight;
    `"fixed"` (frSF) the magnitudes of a weight drawn once; `"batch"` (brSF) of a weight drawn anew for every batch.

    Args:
        network, example, loss: As `ChainedFeedback`.
        magnitude: Of the feedback.

    Raises:
        UserError: `magnitude` is none of the three.

    >>> rule = SignSymmetry(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), example=torch.zeros(1, 4))
    >>> bool((rule.feedback_for("2", rule.network[2].weight) * rule.network[2].weight >= 0).all())
    True
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        magnitude: Magnitude = "uniform",
    ) -> None:
        if magnitude not in get_args(Magnitude):
            raise UserError(f"magnitude must be one of {', '.join(get_args(Magnitude))}, got {magnitude!r}")
        self.magnitude = magnitude
        self._drawn: dict[str, Tensor] = {}
        super().__init__(network, example, loss)

    def make_feedback(self, weights: dict[str, Tensor]) -> Feedback:
        """Draw the magnitudes that stay."""
        if self.magnitude == "batch":
            return Feedback({})
        drawn = {name: initial(self._layers[name]).abs() for name in weights}
        if self.magnitude == "uniform":
            drawn = {name: weight.square().mean().sqrt() for name, weight in drawn.items()}
        return Feedback(drawn)

    def feedback_for(self, name: str, weight: Tensor) -> Tensor:
        """The magnitude with the weight's present sign."""
        if self.magnitude != "batch":
            return weight.sign().mul_(self.feedback[name])
        if name not in self._drawn:  # a layer that is applied several times has one feedback
            self._drawn[name] = initial(self._layers[name]).abs_()
        return weight.sign().mul_(self._drawn[name])

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Send the signal down by feedback that is, for brSF, this batch's alone."""
        self._drawn.clear()
        return super().assign_credit(x, y, phase)


class KolenPollack(ChainedFeedback):
    """Feedback learned beside the weights (Kolen and Pollack, 1994; Akrout et al., arXiv 1904.05391, eqs. 16-17).

        grad B = grad W

    Weight and feedback receive the same change. With weight decay lambda and SGD's learning rate eta their difference
    shrinks by 1 - eta lambda a step, and after many steps the rule is back-propagation: the optimizer's weight decay
    must be positive, and the same for both groups of parameters.

    Args: as `ChainedFeedback`.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [group["name"] for group in KolenPollack(network, example=torch.zeros(1, 4)).parameter_groups()]
    ['network', 'feedback']
    """

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """As of all; and weights must be parameters, for what is computed from others has no gradient to share."""
        if reason := super().supports(network):
            return reason
        made = [name for name, layer in find_layers(network).items() if layer._parameters.get("weight") is None]
        if not made:
            return None
        return f"the weight of layer {made[0]} is made of other parameters: its feedback has no gradient to learn from"

    def make_feedback(self, weights: dict[str, Tensor]) -> Feedback:
        """Draw random weights as parameters."""
        return Feedback({name: initial(self._layers[name]) for name in weights}, learned=True)

    def feedback_for(self, name: str, weight: Tensor) -> Tensor:
        """The present one."""
        del weight
        return self.feedback[name].detach()

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Send the signal down, and give each feedback weight the gradient of its forward weight."""
        weights = {name: weight_of(self._layers[name]) for name in self.feedback}
        tied = {id(weight): weight for weight in weights.values()}
        before = {key: weight.grad for key, weight in tied.items()}
        for weight in tied.values():
            weight.grad = None
        try:
            loss = super().assign_credit(x, y, phase)
            for name, weight in weights.items():
                if weight.grad is not None:
                    add_gradient(self.feedback[name], weight.grad.clone())
        finally:
            for key, weight in tied.items():
                if (earlier := before[key]) is not None:
                    weight.grad = earlier if weight.grad is None else earlier + weight.grad
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network and the feedback."""
        return two_groups(self.network, self.feedback)


def two_groups(network: nn.Module, feedback: nn.Module) -> list[dict[str, Any]]:
    """Name the network's parameters and those of learned feedback."""
    return [
        {"name": name, "params": [p for p in part.parameters() if p.requires_grad]}
        for name, part in (("network", network), ("feedback", feedback))
    ]


def initial(layer: nn.Module) -> Tensor:
    """Draw a weight as the layer's own `reset_parameters` does: U(-b, b) with b = 1/sqrt(fan_in)."""
    weight = weight_of(layer)
    bound = weight[0].numel() ** -0.5
    return torch.empty_like(weight, requires_grad=False).uniform_(-bound, bound)


def transposed(layer: nn.Module, weight: Tensor, signal: Tensor, shape: torch.Size) -> Tensor:
    """Apply the transpose of a layer's linear map, with another weight in it.

    Args:
        layer: Linear, grouped or not, or a convolution.
        weight: Of the shape of the layer's own.
        signal: Of the shape of the layer's output.
        shape: Of the layer's input.

    Returns:
        A tensor of that shape.
    """
    if isinstance(layer, nn.Linear):
        return signal @ weight
    if isinstance(layer, GroupedLinear):
        return layer.transposed(signal, weight)
    assert isinstance(layer, _ConvNd)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        # Whatever happens at the borders is linear too: differentiate it at an input that does not matter.
        with torch.enable_grad():
            at = torch.zeros(shape, dtype=signal.dtype, device=signal.device, requires_grad=True)
            output = layer._conv_forward(at, weight, None)
        return torch.autograd.grad(output, at, signal)[0]
    at = signal.new_empty(1).expand(shape)  # only its shape is read
    found: Tensor = torch.ops.aten.convolution_backward(
        signal,
        at,
        weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        [0] * len(layer.stride),
        layer.groups,
        (True, False, False),
    )[0]
    return found


def _passed_through(network: nn.Module, layers: dict[str, nn.Module], example: Tensor) -> list[str]:
    """Name the layers whose input depends on a layer before them.

    Raises:
        UnsupportedNetworkError: The network applies a matrix by itself, which would pass signals by its transpose.
    """
    check_example(example, network)
    passed: dict[str, None] = {}
    evaluated: set[nn.Module] = set()

    def enter(call: Call, arguments: Any) -> Any:
        evaluated.add(call.layer)
        call.cut(arguments, with_gradient=False)
        if call.given:
            passed[call.name] = None
        return arguments

    watched = intercepted(layers, enter, lambda _call, output: output)
    with running_example(example), evaluating(network), unfrozen(network), torch.enable_grad(), watched:
        leaves = reachable(getattr(network(example), "grad_fn", None))
    used = {id(variable) for node in leaves if (variable := getattr(node, "variable", None)) is not None}
    known = {id(parameter) for layer in evaluated for parameter in layer.parameters()}
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and id(parameter) in used - known:
            raise UnsupportedNetworkError(
                f"the network applies {name} by itself, and signals would pass by its transpose: make it the weight "
                "of a linear layer, or of an embedding if it is a table that is added"
            )
    return list(passed)
