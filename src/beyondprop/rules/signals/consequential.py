"""Rules that move each layer by what its step does to the layer's outputs, and their common part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils import _pytree as trees

from beyondprop.errors import UserError
from beyondprop.rule import add_gradient
from beyondprop.rules.network_rule import NetworkRule, Terms, count_terms
from beyondprop.rules.signals.affine import Ridge, by_parameter, find_affine, input_rows, output_rows, trained
from beyondprop.rules.signals.layers import Call, differentiable, edges_of, intercepted

Form = Literal["projection", "normalised"]


class _Pass(NamedTuple):
    """One evaluation of a layer: what it read, and where the signal for what it gave enters."""

    call: Call
    given: Tensor
    version: int
    edge: GradientEdge


class OutputwiseRule(NetworkRule):
    """What BPC and ProxProp share: errors come down by back-propagation, and each affine layer turns them into a step.

    Affine layers are `nn.Linear` and `nn.Conv1d`, `2d`, `3d`. Everything else that learns (norms, embeddings,
    attention, layers whose weight is shared with another module or made from others, transposed convolutions) has its
    ordinary gradient. A layer that is evaluated several times has the rows of all evaluations together.

    Args:
        network: Any module with an affine layer.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores. Its own parameters have
            their ordinary gradient.
        terms: As in `BPC`; only for rules that ask for it.

    Raises:
        UnsupportedNetworkError: The network has no affine layer of its own.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        terms: Terms | None = None,
    ) -> None:
        super().__init__(network, loss)
        self.terms = terms
        self._layers = find_affine(network)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """There must be a layer whose step differs from the gradient's."""
        if find_affine(network):
            return None
        return (
            f"the network ({type(network).__name__}) has no linear or convolutional layer with weights of its own: "
            "its parameters would all have their ordinary gradient; use back-propagation"
        )

    @abstractmethod
    def change(self, rows: Tensor, delta: Tensor, terms: float | Tensor) -> Tensor:
        """Tell what is to be subtracted from a layer's weights.

        Args:
            rows: The layer's inputs, shape (groups, n, d).
            delta: The loss's derivative with respect to its outputs, shape (groups, n, m).
            terms: Number of terms whose mean the loss is.

        Returns:
            Shape (groups, m, d).
        """

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Differentiate with respect to the outputs of the affine layers, and to parameters elsewhere."""
        del phase
        entered: dict[Call, tuple[Tensor, int]] = {}
        passes: list[_Pass] = []

        def enter(call: Call, arguments: Any) -> Any:
            given = trees.tree_leaves(arguments)[0]
            entered[call] = given, given._version
            return arguments

        def leave(call: Call, output: Any) -> Any:
            given, version = entered.pop(call)
            if trained(call.layer):
                passes.extend(_Pass(call, given, version, edge) for edge in edges_of(differentiable(output)))
            return output

        with intercepted(self._layers, enter, leave):
            scores = self.network(x)
        loss = self.measured(scores, x, y)
        _refuse_changed(passes)
        layers: dict[nn.Module, list[int]] = {}
        for place, one in enumerate(passes):
            layers.setdefault(one.call.layer, []).append(place)
        others = self._others(layers)
        sources: list[Any] = [*(one.edge for one in passes), *others]  # torch's signature knows no mixture
        if not sources:  # all is frozen
            return loss
        found = torch.autograd.grad(loss, sources, allow_unused=True)

        terms = count_terms(self.terms, self.loss, scores, y)
        gradients: list[tuple[nn.Parameter, Tensor]] = []
        with torch.autocast(x.device.type, enabled=False):
            for layer, places in layers.items():
                taught = [(passes[i].given, delta) for i in places if (delta := found[i]) is not None]
                if taught:
                    rows = torch.cat([input_rows(layer, given) for given, _ in taught], dim=1)
                    delta = torch.cat([output_rows(layer, delta) for _, delta in taught], dim=1)
                    gradients += by_parameter(layer, self.change(rows, delta, terms))
        rest = zip(others, found[len(passes) :], strict=True)
        gradients += [(parameter, gradient) for parameter, gradient in rest if gradient is not None]
        for parameter, gradient in gradients:
            add_gradient(parameter, gradient)
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """`affine`, whose steps are the rule's own, and `other`, which have gradients and so another scale."""
        layers = self._layers.values()
        affine = [parameter for layer in layers for parameter in trained(layer)]
        groups = [{"name": "affine", "params": affine}, {"name": "other", "params": self._others(layers)}]
        return [group for group in groups if group["params"]]

    def _others(self, layers: Iterable[nn.Module]) -> list[nn.Parameter]:
        """What is trained, in the network or the loss, and belongs to none of these layers."""
        theirs = {id(parameter) for layer in layers for parameter in layer.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in theirs]


def _refuse_changed(passes: Iterable[_Pass]) -> None:
    """Autograd would notice only where it needs a layer's input itself."""
    for call, given, version, _ in passes:
        if call.layer.weight.requires_grad and given._version != version:
            raise UserError(
                f"the input of layer {call.name or 'network'} ({type(call.layer).__name__}) was changed in place after "
                "the layer had read it, and its step is made from that input: change a copy instead"
            )


class BPC(OutputwiseRule):
    """Back-propagation with consequential updates (Paeedeh and Ghiasi-Shirazi, arXiv 2003.05164).

    A layer y = W x that steps by -eta delta x^T for each sample moves the output of sample j by
    -eta sum_i delta_i <x_i, x_j>, where -eta delta_j was meant: samples disturb each other. `"projection"` takes the
    consequences into account beforehand, so that every sample of the batch moves as meant, as c -> 0 and as far as
    W's size allows:

        .grad = delta X^T (X X^T + cI)^-1 = delta (X^T X + cI)^-1 X^T,    .grad X -> delta

    (affine projection; X holds the batch's inputs as columns, and a bias is a weight with input 1). `"normalised"` only
    corrects each sample's own step, which is cheap, and leaves the disturbance:

        .grad = 1/n sum_j delta_j x_j^T / (|x_j|^2 + c)

    With one sample both are the normalised LMS filter. delta is the derivative of each sample's own loss, of a tagger
    each position's: that of the mean, times the number of terms in the mean. A convolution's columns are its patches,
    one for each sample and place; a projection is then the least-squares fit to what all places want.

    A step of eta = 1 moves every output by its delta. `.grad` takes the gradient's place in any optimizer. Parts of a
    batch whose `.grad` accumulate are projected each by itself, and their sum is not the whole batch's step; only of
    the normalised form the mean over equal parts is.

    Args:
        network: Any module with a linear or convolutional layer; other layers have their ordinary gradient.
        loss: Maps (network(x), y) to a scalar, the mean over terms. Default: mean cross-entropy over class scores.
            Its own parameters have their ordinary gradient.
        form: `"projection"` or `"normalised"`.
        regularisation: c > 0, in units of a squared input: how much of the meant move is given up for a smaller step.
        terms: Tells for a batch's targets the number of terms whose mean the loss is; `lambda y: 1` for a sum. Default:
            1 if the loss has `reduction="sum"`; else the number of class indices in y, without those that are the
            loss's `ignore_index`; else, for numbers or targets of the scores' own shape, the batch's length.

    Raises:
        UserError: `form` is neither, `regularisation` is not positive, or, when it steps, `terms` gives no positive
            number or a layer's input was changed in place after the layer had read it.
        UnsupportedNetworkError: The network has no linear or convolutional layer.

    >>> rule = BPC(nn.Linear(4, 3), regularisation=1e-6)
    >>> x, y = torch.eye(4)[:2], torch.tensor([0, 2])
    >>> with torch.no_grad():
    ...     meant = rule(x).softmax(dim=1) - torch.eye(3)[y]
    >>> loss = rule.backward(x, y)
    >>> torch.allclose(x @ rule.network.weight.grad.T + rule.network.bias.grad, meant, atol=1e-4)
    True
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        form: Form = "projection",
        regularisation: float = 1.0,
        terms: Terms | None = None,
    ) -> None:
        if form not in get_args(Form):
            raise UserError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
        if not regularisation > 0:
            raise UserError(f"regularisation must be positive, got {regularisation}")
        super().__init__(network, loss, terms)
        self.form = form
        self.regularisation = regularisation

    def change(self, rows: Tensor, delta: Tensor, terms: float | Tensor) -> Tensor:
        """Project, or normalise."""
        delta = terms * delta
        if self.form == "projection":
            return Ridge(rows, self.regularisation).solve(delta)
        lengths = rows.square().sum(dim=2, keepdim=True) + self.regularisation
        return (delta / lengths).mT @ rows / rows.shape[1]
