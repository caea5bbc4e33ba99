"""Semi-implicit back-propagation: from the top down, weights take an implicit step, and neurons follow the new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from beyondprop.errors import UserError
from beyondprop.functional import buffers_kept
from beyondprop.generators import GeneratorState
from beyondprop.rule import add_gradient
from beyondprop.rules.network_rule import NetworkRule, Terms, count_terms
from beyondprop.rules.signals.affine import Ridge, by_parameter, input_rows, is_affine, output_rows, trained
from beyondprop.rules.signals.feedback_alignment import transposed
from beyondprop.rules.signals.layers import find_layers, weight_of
from beyondprop.sequential import flattened

Step = tuple[nn.Parameter, Tensor]
Steps = list[Step]

HALVINGS = 20  # of a step that would lead up, before it is given up


class SemiImplicit(NetworkRule):
    """Semi-implicit back-propagation (Liu and Zhang, arXiv 2002.03516).

    The network is a chain F_{i+1} = sigma(W_i F_i), each layer with all that follows it up to the next; F_0 is the
    input, F_N the scores, and a bias is a weight with input 1. From the top down, i = N-1 .. 0:

        d_N = eta dJ/dF_N
        W_i' = argmin_W 1/2 |sigma(W F_i) - (F_{i+1} - d_{i+1})|^2 + lambda/2 |W - W_i|^2
        d_i = W_i'^T (sigma'(W_i F_i) * d_{i+1})
        .grad = W_i - W_i'

    So a layer learns what its neurons should have been, F - d, and the next lower one is told by weights that have
    already learned it (with sigma' where the forward pass was, as in the authors' program). SGD with learning rate 1
    takes the step itself. dJ/dF_N is the derivative of each sample's own loss, of a tagger each position's: that of the
    mean, times the number of terms in the mean. A fixed point is a stationary point of the loss; as lambda grows,
    `.grad` becomes eta/lambda times the gradient of the loss summed over the batch. Parts of a batch whose `.grad`
    accumulate are fitted each by itself, and but for that limit their sum is not the whole batch's step.

    The minimum is approached by ridge regressions onto what W F should be,

        W <- argmin_W 1/2 |W F - (z - s)|^2 + lambda/2 |W - W_i|^2,    s = sigma'(z) * (sigma(z) - F_{i+1} + d_{i+1})

    with z = W F of the W before; all have one Gram matrix, factored once. The first is exact where sigma is linear, and
    the only one with `solves=1`; further ones are taken as far as they lead down, and where they stop is a stationary
    point. (The authors take five steps of nonlinear conjugate gradients, for the weight, then for the bias.)

    Parameters between layers (those of norms) take a step along sigma's own derivative, d_{i+1} . dsigma, divided by
    lambda + n for n rows of F_i; the loss's own parameters one along eta times J's own, by lambda + n for the last
    layer's n. All is computed in the network's own precision, under autocast too.

    Args:
        network: `nn.Sequential`, also nested, of linear layers and convolutions with what needs no layer between
            them: activations, pooling, norms, dropout.
        loss: Maps (network(x), y) to a scalar, the mean over terms. Default: mean cross-entropy over class scores.
        step: eta, positive: how far the scores are to move.
        regularisation: lambda, positive, in units of a squared input.
        solves: Ridge regressions a layer, at least 1.
        terms: Number of terms whose mean the loss is, by the batch's targets; default as in `BPC`.

    Raises:
        UserError: `step`, `regularisation` or `solves` is out of range, or, when it steps, `terms` gives no positive
            number.
        UnsupportedNetworkError: The network is no such chain; the message names the layer.

    >>> rule = SemiImplicit(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), step=1.0)
    >>> optimizer = torch.optim.SGD(rule.parameters(), lr=1.0)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    follows_gradient = False  # below the top the signal comes by weights that have moved

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        step: float = 0.1,
        regularisation: float = 1.0,
        solves: int = 1,
        terms: Terms | None = None,
    ) -> None:
        for name, value in {"step": step, "regularisation": regularisation}.items():
            if not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        if solves < 1:
            raise UserError(f"solves must be at least 1, got {solves}")
        super().__init__(network, loss)
        self.step = step
        self.regularisation = regularisation
        self.solves = solves
        self.terms = terms
        self._head, self._units = _units(network)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Only chains of affine layers: neurons of a branch or a sum have no single layer to answer to."""
        seen: dict[int, str] = {}
        begun = False
        for name, module in flattened(network):
            named = f"layer {name or 'network'} ({type(module).__name__})"
            begun = begun or is_affine(module)
            if not is_affine(module) and find_layers(module):
                return (
                    f"{named} is not linear, nor a convolution, nor free of layers: semi-implicit back-propagation "
                    "trains nn.Sequential chains of these, without branches"
                )
            for parameter in module.parameters():
                if id(parameter) in seen:
                    return f"{named} shares a parameter with layer {seen[id(parameter)]}: each must take its own step"
                if not begun:
                    return f"{named} has parameters and stands before the first linear or convolutional layer"
                seen[id(parameter)] = name
        return None if begun else "the network has no linear or convolutional layer: nothing can be trained"

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Run the chain up, then down."""
        del phase
        with torch.autocast(x.device.type, enabled=False):  # differences of neurons that are close to each other
            neurons = x.to(next(self.network.parameters()).dtype) if x.is_floating_point() else x
            for module in self._head:
                neurons = module(neurons)
            evaluations = []
            for unit in self._units:
                evaluations.append(_Evaluation(unit, neurons, repeatable=self.solves > 1))
                neurons = evaluations[-1].output.detach()
            scores = neurons.requires_grad_()
            loss = self.measured(scores, x, y)
            own = self.loss_parameters()
            scale = self.step * count_terms(self.terms, self.loss, scores, y)
            slope, *others = torch.autograd.grad(loss, [scores, *own], allow_unused=True)
            difference = scale * slope
            weight = scale / (self.regularisation + evaluations[-1].rows)
            steps: Steps = [(p, weight * other) for p, other in zip(own, others, strict=True) if other is not None]
            for evaluation in reversed(evaluations):
                taken, signal = self._fit(evaluation, difference)
                steps += taken
                if evaluation is not evaluations[0]:
                    difference = evaluation.passed_down(signal, taken)
        for parameter, step in steps:
            add_gradient(parameter, step)
        return loss

    def _fit(self, at: _Evaluation, difference: Tensor) -> tuple[Steps, Tensor]:
        """Fit one unit to its neurons' difference; give theta - theta', and the difference of z."""
        layer = at.unit.layer
        signal, *others = at.derivative(difference)
        steps: Steps = []
        if trained(layer):
            rows = input_rows(layer, at.input)
            ridge = Ridge(rows, self.regularisation)
            change = ridge.solve(output_rows(layer, signal))
            if self.solves > 1:
                change = self._minimised(at, difference, ridge, change)
            steps += by_parameter(layer, change)
        weight = self.regularisation + at.rows
        steps += [(p, other / weight) for p, other in zip(at.unit.others, others, strict=True)]
        return steps, signal

    def _minimised(self, at: _Evaluation, difference: Tensor, ridge: Ridge, aim: Tensor) -> Tensor:
        """Go from ridge regression to ridge regression, half the way and less where the whole would lead up."""
        layer, change, best = at.unit.layer, torch.zeros_like(aim), difference.square().sum()
        for _ in range(self.solves):
            for halvings in range(HALVINGS):
                candidate = torch.lerp(change, aim, 0.5**halvings)
                left, signal = at.after(by_parameter(layer, candidate), difference)
                value = left.square().sum() + self.regularisation * candidate.square().sum()
                if value < best:
                    break
            else:
                break
            change, best = candidate, value
            aim = ridge.solve(output_rows(layer, signal) + ridge.rows @ change.mT)
        return change


@dataclass
class _Unit:
    """A layer and what follows it up to the next."""

    layer: nn.Module
    tail: list[nn.Module] = field(default_factory=list)

    @property
    def others(self) -> list[nn.Parameter]:
        """What is trained in the tail."""
        return [parameter for module in self.tail for parameter in trained(module)]

    def after(self, z: Tensor) -> Tensor:
        """Compute sigma(z)."""
        for module in self.tail:
            z = module(z)
        return z


class _Evaluation:
    """One evaluation of a unit, cut off from what came before; `repeatable` with the same random numbers."""

    def __init__(self, unit: _Unit, neurons: Tensor, *, repeatable: bool) -> None:
        self.unit = unit
        self.input = neurons.detach().requires_grad_()  # so that z has a graph where the layer is frozen
        z = unit.layer(self.input)
        self._edge: GradientEdge = get_gradient_edge(z)
        self.rows = z.numel() // weight_of(unit.layer).shape[0]
        self._random = _RandomNumbers(z.device) if repeatable else None
        self.output = unit.after(z)

    def derivative(self, difference: Tensor) -> tuple[Tensor, ...]:
        """Tell what a difference of the output means for z, and for the parameters of the tail."""
        sources: list[Any] = [self._edge, *self.unit.others]  # torch's signature knows no mixture
        return torch.autograd.grad(self.output, sources, difference)

    def after(self, steps: Iterable[Step], difference: Tensor) -> tuple[Tensor, Tensor]:
        """Tell what is left of the difference when the layer has taken steps, and what that means for z."""
        assert self._random is not None
        with self._random.again(self.unit.tail):
            z = _evaluate(self.unit.layer, self.input, *_stepped(self.unit.layer, steps))
            edge = get_gradient_edge(z)
            output = self.unit.after(z)
            left = (output - self.output + difference).detach()
            return left, torch.autograd.grad(output, [edge], left)[0]

    def passed_down(self, signal: Tensor, steps: Iterable[Step]) -> Tensor:
        """Tell what a difference of z means for the input, by the weight that has taken its step."""
        weight, _ = _stepped(self.unit.layer, steps)
        return transposed(self.unit.layer, weight, signal, self.input.shape)


class _RandomNumbers:
    """The generators' state at a moment, to draw the same numbers again."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = [device] if device.type == "cuda" else []
        self._state = GeneratorState(self._cuda)

    @contextmanager
    def again(self, modules: list[nn.Module]) -> Iterator[None]:
        """Draw as at that moment; afterwards generators and the modules' statistics are as they were before."""
        with torch.random.fork_rng(devices=self._cuda), buffers_kept(*modules):
            self._state.restore()
            yield


def _units(network: nn.Module) -> tuple[list[nn.Module], list[_Unit]]:
    """Take a chain apart: what stands before the first layer, and the layers with what follows each."""
    head: list[nn.Module] = []
    units: list[_Unit] = []
    for _, module in flattened(network):
        if is_affine(module):
            units.append(_Unit(module))
        else:
            (units[-1].tail if units else head).append(module)
    return head, units


def _stepped(layer: nn.Module, steps: Iterable[Step]) -> tuple[Tensor, Tensor | None]:
    """The layer's weight and bias after their steps."""
    taken = {id(parameter): step for parameter, step in steps}
    weight, bias = weight_of(layer), layer.bias
    assert bias is None or isinstance(bias, Tensor)
    return weight.detach() - taken.get(id(weight), 0), None if bias is None else bias.detach() - taken.get(id(bias), 0)


def _evaluate(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Evaluate an affine layer with other parameters."""
    if isinstance(layer, _ConvNd):
        output: Tensor = layer._conv_forward(x, weight, bias)
        return output
    return F.linear(x, weight, bias)
