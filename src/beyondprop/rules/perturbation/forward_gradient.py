"""Forward gradients: how the loss changes along random directions, by forward-mode differentiation alone."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from beyondprop.checks import check_whole
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.functional import Tensors, buffers_kept, get_buffers, run_with, set_buffers
from beyondprop.generators import GeneratorState, cuda_devices
from beyondprop.layers.batch_norms import mixes_samples
from beyondprop.rule import add_gradient
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.perturbation.batch_first import calls_of_fixed_length
from beyondprop.rules.perturbation.linear import by_hand, products
from beyondprop.rules.perturbation.noise import draw_noise
from beyondprop.rules.perturbation.orthogonal import OrthogonalDirections
from beyondprop.rules.perturbation.reach import check_reached
from beyondprop.rules.signals.layers import NORMS, find_layers, modules_between
from beyondprop.sequential import children_of, is_plain

Perturb = Literal["activities", "weights"]


class ForwardGradient(NetworkRule):
    r"""Forward gradient (Ren, Kornblith, Liao and Hinton, arXiv 2210.03310, Section 3), of weights or of activities.

        FG-W:  g = (∇L · v) v                           v ~ N(0, I) for all parameters
        FG-A:  δ_l = (dL_n / N) u_l,  g_l = ∂z_l/∂W_l · δ_l    u_l ~ N(0, I) for every layer's output, sample by sample

    ∇L · v is one forward pass with tangents, and so is dL_n, the change of sample n's loss when all outputs z_l move
    along u_l at once. Either is unbiased. A layer's parameters then learn by its own vector-Jacobian product, in which
    nothing is differentiated through another layer: no reverse graph stands through the network. The variance of FG-W
    grows with the number of parameters, that of FG-A with the number of units.

    Args:
        network: Any module; its layers are linear, convolutions, norms, attention, or written by the user.
        loss: Maps (network(x), y) to a scalar, or to losses of shape (batch,) of which the mean is taken; only then has
            each sample a signal of its own, and otherwise all have one, as they have where a batch norm uses the
            batch's statistics, so that one's noise reaches the losses of all. Default: cross-entropy of each sample.
        perturb: `"activities"` (FG-A) or `"weights"` (FG-W).
        directions: Random directions, a forward pass each, whose estimates are averaged.
        orthogonal: Directions are made orthogonal, and the gradient is projected onto what they span, scaled by their
            number so that it stays unbiased: of P parameters by P / directions; of the units of all layers together
            likewise, sample by sample, or of the whole batch's where samples have no signal of their own.

    Raises:
        UserError: An option is out of range; in `backward`, with the default loss, a label is no class index.
        UnsupportedNetworkError: The network has something that forward mode cannot pass or that would differ in a
            second evaluation, or, for activities, a parameter that belongs to no innermost layer; the message names it.
        NonFiniteError: In `backward`, when the loss is NaN or infinite; nothing is added to any `.grad`.

    >>> rule = ForwardGradient(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), directions=4)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    follows_gradient: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        perturb: Perturb = "activities",
        directions: int = 1,
        orthogonal: bool = False,
    ) -> None:
        super().__init__(network, loss)
        if perturb not in ("activities", "weights"):
            raise UserError(f"perturb must be 'activities' or 'weights', got {perturb!r}")
        check_whole(1, directions=directions)
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if orthogonal and perturb == "weights" and directions > (count := sum(p.numel() for p in trained.values())):
            raise UserError(f"there are no {directions} orthogonal directions among {count} parameters")
        recurrent = (name for name, module in network.named_modules() if isinstance(module, nn.RNNBase))
        if perturb == "activities" and (name := next(recurrent, None)) is not None:
            kind = type(network.get_submodule(name)).__name__
            raise UnsupportedNetworkError(
                f"layer {name or 'network'} ({kind}) runs over time inside itself: write it with cells and a loop, or "
                'perturb="weights"'
            )
        if perturb == "activities":
            check_reached(trained, watched_layers(network), 'perturb="weights"')
        self.perturb, self.directions, self.orthogonal = perturb, directions, orthogonal
        self._fixed: set[int] | None = None  # calls whose first dimension is not the batch, though it may be as long
        if self._classifies:
            self.loss = nn.CrossEntropyLoss(reduction="none")

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; four directions unless the options say otherwise."""
        del example, classes
        return cls(network, **{"directions": 4, **options})

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Any module; activities of recurrent modules of torch's own cannot be moved, which the constructor tells."""
        del network
        return None

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Add up the estimates of all directions."""
        del phase
        with torch.no_grad(), forward_mode(self.network):
            estimate = self._by_activities if self.perturb == "activities" else self._by_weights
            return estimate(x, y)

    def _losses(self, scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Losses of shape (batch,), or one for all, as where batch norm mixes samples; with a tangent."""
        losses = self.loss(scores, self.checked_targets(y, scores.shape))
        if losses.ndim > 1:
            raise UserError(f"loss must give a scalar or one number a sample, got shape {tuple(losses.shape)}")
        self.finite_losses(forward_ad.unpack_dual(losses).primal, x)
        return losses.mean() if mixes_samples(self.network) else losses

    def _by_weights(self, x: Tensor, y: Tensor) -> Tensor:
        trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        share, drawn = self._directions(list(trained.values()))
        state, moved, loss = GeneratorState(cuda_devices(self.network)), Tensors(), None
        found: list[Tensor] = []
        for direction in drawn:
            state.restore()  # one dropout mask for all: they are directions of one loss
            with forward_ad.dual_level():
                along = dict(zip(trained.values(), direction, strict=True))
                scores, after = evaluated_along(self.network, along, x)
                losses = self._losses(scores, x, y)
                primal, tangent = forward_ad.unpack_dual(losses.mean())
            change = primal.new_zeros(()) if tangent is None else share * tangent
            for number, v in enumerate(direction):
                v.mul_(change)
                if number < len(found):
                    found[number] += v
                else:
                    found.append(v)
            if loss is None:  # statistics move once
                loss, moved = primal, after
        set_buffers(moved, self.network)
        for p, gradient in zip(trained.values(), found, strict=True):
            add_gradient(p, gradient)
        assert loss is not None
        return loss

    def _directions(self, trained: list[nn.Parameter]) -> tuple[float, Iterator[list[Tensor]]]:
        """The share of each direction in the estimate, and the directions, one tensor for each parameter."""
        # Of its own, so that what the network draws is the same for every direction.
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        if not self.orthogonal:
            return 1 / self.directions, ([self.noise(p, generator) for p in trained] for _ in range(self.directions))
        sizes = [p.numel() for p in trained]
        drawn = self.noise(trained[0].new_empty(self.directions, sum(sizes)), generator)
        exact = drawn.to(torch.promote_types(drawn.dtype, torch.float32))  # there is no QR of bfloat16
        spanned = torch.linalg.qr(exact.T).Q.T.to(drawn.dtype)
        rows = (zip(row.split(sizes), trained, strict=True) for row in spanned)
        # Clones: forward mode would copy a part of a larger tensor for itself.
        return sum(sizes) / self.directions, ([v.view(p.shape).clone() for v, p in row] for row in rows)

    def _by_activities(self, x: Tensor, y: Tensor) -> Tensor:
        state, loss = GeneratorState(cuda_devices(self.network)), None
        before = get_buffers(self.network)
        found: dict[nn.Parameter, Tensor] = {}
        if self._fixed is None:
            self._fixed = calls_of_fixed_length(self.network, watched_layers(self.network), x)
        frame = OrthogonalDirections(self.directions) if self.orthogonal else None
        for number in range(self.directions):
            state.restore()
            if number > 0:  # statistics move once
                set_buffers(before, self.network)
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())) + number)
            draw: Callable[[Tensor], Tensor] = partial(self.noise, generator=generator)
            draw = draw if frame is None else frame.drawing(draw)
            # Orthogonal directions would no longer be orthogonal without some of their parts.
            with forward_ad.dual_level(), watched(self.network, draw, gated=frame is None) as calls:
                with _LinearByHand():
                    scores = self.network(x)
                losses = self._losses(scores, x, y)
                primal, change = forward_ad.unpack_dual(losses)
            loss = primal.mean() if loss is None else loss
            if change is not None:
                with leaving_no_trace(self.network):
                    share = change / (self.directions * (len(x) if losses.ndim else 1))
                    if frame is not None:
                        noise = [call.noise for call in calls]
                        apart = not self._fixed and all(len(part) == len(x) for part in noise)
                        share = frame.weighted(share if apart else share.sum(), noise)
                    for place, call in enumerate(calls):
                        signal = share.sum() if place in self._fixed else share
                        for parameter, gradient in call.gradients(signal, len(x)):
                            found[parameter] = found[parameter] + gradient if parameter in found else gradient
        for parameter, gradient in found.items():
            add_gradient(parameter, gradient)
        assert loss is not None
        return loss

    @staticmethod
    def noise(value: Tensor, generator: torch.Generator) -> Tensor:
        """Draw u ~ N(0, I) of a layer's output, of its shape."""
        return draw_noise(value, generator)


@dataclass(frozen=True)
class TangentCall:
    """One evaluation of a layer: with what, the noise along which its output moved, and the generators' state."""

    layer: nn.Module
    args: list[Any]
    kwargs: dict[str, Any]
    noise: Tensor
    state: GeneratorState

    def gradients(self, change: Tensor, batch: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Call the layer's own vector-Jacobian product with its noise, times how the loss has changed.

        Args:
            change: Of each sample's loss, shape (batch,), or of one loss for all.
            batch: Number of samples.
        """
        if change.ndim and len(self.noise) == batch:
            signal = self.noise * change.view(-1, *[1] * (self.noise.ndim - 1))
        else:
            signal = self.noise * change.sum()
        parameters = [p for p in self.layer.parameters() if p.requires_grad]
        if by_hand(self.layer) and not self.kwargs:
            yield from products(self.layer, self.args, signal)
            return
        self.state.restore()
        with torch.enable_grad():
            output = self.layer(*self.args, **self.kwargs)
            value = output[0] if isinstance(output, tuple) else output
            gradients = torch.autograd.grad(value, parameters, signal, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                yield parameter, gradient


def evaluated_along(network: nn.Module, along: dict[nn.Parameter, Tensor], x: Tensor) -> tuple[Any, Tensors]:
    """Evaluate a network in dual numbers, its parameters moving.

    Args:
        network: Any module.
        along: The direction of each parameter that moves.
        x: Its input, with a tangent or without.

    Returns:
        The output, and the values that the network would leave in its buffers, which stay as they are.
    """
    duals = {name: forward_ad.make_dual(p.detach(), along[p]) for name, p in network.named_parameters() if p in along}
    with _LinearByHand():
        output, moved = run_with(network, duals, get_buffers(network), (x,))
    return output, {name: forward_ad.unpack_dual(buffer).primal for name, buffer in moved.items()}


class _LinearByHand(TorchFunctionMode):
    """Multiply tangents in linear layers by hand: torch would also multiply by those that are zero."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_dual_linear if func is F.linear else func)(*args, **(kwargs or {}))


def _dual_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # torch's names
    (x, dx), (w, dw) = forward_ad.unpack_dual(input), forward_ad.unpack_dual(weight)
    b, db = (None, None) if bias is None else forward_ad.unpack_dual(bias)
    output = F.linear(x, w, b)
    if dw is not None:
        tangent = F.linear(x, dw, db)
    elif db is not None:
        tangent = db.to(output.dtype).expand_as(output).clone()
    elif dx is None:
        return output
    if dx is not None:
        passed = F.linear(dx, w)
        tangent = passed if dw is None and db is None else tangent.add_(passed)
    return forward_ad.make_dual(output, tangent)


@contextmanager
def watched(network: nn.Module, draw: Callable[[Tensor], Tensor], *, gated: bool = True) -> Iterator[list[TangentCall]]:
    """Let the output of every layer move along noise of its own, and note what it was called with.

    Args:
        network: Evaluated in the context, in dual numbers.
        draw: Makes noise of the shape of a layer's output.
        gated: Whether units that a ReLU behind them switches off stay where they are: they have no gradient, and their
            noise would be nothing else (Ren et al., Section 3).
    """
    calls: list[TangentCall] = []
    into_relu = layers_into_relu(network) if gated else set()
    states: list[GeneratorState] = []
    devices = cuda_devices(network)

    def before(_module: nn.Module, _args: Any) -> None:
        states.append(GeneratorState(devices))  # a layer that drops something inside will drop it again

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        state = states.pop()
        value = output[0] if isinstance(output, tuple) else output
        primal, tangent = forward_ad.unpack_dual(value)
        noise = draw(primal)
        if module in into_relu:
            noise.mul_(primal > 0)
        plain = [forward_ad.unpack_dual(a).primal if isinstance(a, Tensor) else a for a in args]
        named = {k: forward_ad.unpack_dual(a).primal if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        calls.append(TangentCall(module, plain, named, noise, state))
        # A clone: what follows may change its tangent in place.
        dual = forward_ad.make_dual(primal, noise.clone() if tangent is None else tangent + noise)
        return (dual, *output[1:]) if isinstance(output, tuple) else dual

    with ExitStack() as hooks:
        for layer in watched_layers(network):
            hooks.callback(layer.register_forward_pre_hook(before).remove)
            hooks.callback(layer.register_forward_hook(after, with_kwargs=True).remove)
        yield calls


def layers_into_relu(network: nn.Module) -> set[nn.Module]:
    """Layers whose output goes into a ReLU and nowhere else, as far as sequences of modules tell."""
    sequences = [module for module in network.modules() if is_plain(module)]
    pairs = chain.from_iterable(pairwise(children_of(module)) for module in sequences)
    found = {layer for layer, behind in pairs if type(behind) is nn.ReLU}
    uses = Counter(chain.from_iterable(children_of(module) for module in network.modules()))
    return {layer for layer in found if uses[layer] == 1}


def watched_layers(network: nn.Module) -> list[nn.Module]:
    """The layers that learn, once each."""
    layers = find_layers(network)
    layers |= modules_between(network, layers.values(), NORMS)
    return [layer for layer in dict.fromkeys(layers.values()) if any(p.requires_grad for p in layer.parameters())]


@contextmanager
def leaving_no_trace(network: nn.Module) -> Iterator[None]:
    """Within it layers are run anew: statistics and generators are as before at the end."""
    state = GeneratorState(cuda_devices(network))
    try:
        with buffers_kept(network):
            yield
    finally:
        state.restore()


@functools.cache
def _loaded() -> None:
    """Let torch load its forward mode, of which it warns itself that it uses what it calls deprecated."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")  # of kinds that differ among versions of torch
        forward_ad.make_dual(torch.ones(1), torch.ones(1))


@contextmanager
def forward_mode(network: nn.Module) -> Iterator[None]:
    """What forward mode cannot pass, run by what it can: attention and LSTM by plain products; say what is left."""
    _loaded()
    enabled = torch._C._get_mkldnn_enabled()  # `torch.backends.mkldnn.flags` warns of Intel's GPUs
    if any(isinstance(module, nn.LSTM) for module in network.modules()):  # only then: convolutions are slow without
        torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except NotImplementedError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedNetworkError(f"forward-mode differentiation cannot pass the network: {reason}") from error
    finally:
        torch._C._set_mkldnn_enabled(enabled)
