"""Perturbed nodes, weights and activities: two rollouts, one of them noisy, and no derivative through the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.layers.batch_norms import mixes_samples
from beyondprop.layers.decorrelation import Decorrelation
from beyondprop.networks.recurrent import Recurrent
from beyondprop.rule import add_gradient
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.perturbation.batch_first import calls_of_fixed_length
from beyondprop.rules.perturbation.later_noise import NoisyCall, signals_in_turn
from beyondprop.rules.perturbation.reach import check_reached
from beyondprop.rules.perturbation.rollouts import Rollouts, call_shapes, draw, roll_out, teach
from beyondprop.rules.signals.layers import NORMS, find_layers, modules_between

Kind = Literal["activity", "node", "weight"]
Noise = Literal["gaussian", "signs"]
Credit = Literal["future", "step"]
RIDGE = 1e-3  # of the mean variance, where covariances are divided by
FEW = 4  # rollouts whose losses are computed one by one, which then costs less than vmap's own work


class NodePerturbation(NetworkRule):
    r"""Node, weight and activity perturbation (García Fernández et al., arXiv 2405.08967).

        NP   g_t = δL ξ_t / σ²              ξ_t ~ σ N(0, I) added to the output h_t of every layer
        ANP  g_t = δL Δ_t / ⟨Δ_t²⟩          Δ_t = noisy h_t - clean h_t: new noise, and what earlier noise did
        WP   G   = δL Ξ / σ²                Ξ ~ σ N(0, I) added to all weights
        W gets Σ_t g_t x_tᵀ                 x_t the clean input of the layer;    D gets offdiag(E[x̂ x̂ᵀ]) D

    δL is by how much noise changes the loss of an example, over the steps that the noise can reach. NP and WP are
    unbiased for the gradient of the loss smoothed by the noise. ANP, where ⟨⟩ is the mean over samples, examples and
    units, gives each layer's output C ∂L/∂h_t with C = E[Δ Δᵀ] / ⟨Δ²⟩, positive semidefinite with mean eigenvalue 1:
    unbiased where noise reaches all units alike. That holds where earlier noise reaches the loss through the layer
    alone, as in perceptrons and `VanillaRNN`. Where paths lead around it, in a `GatedRNN` or a residual network, what
    they do to the loss is credited to the layer as well, which can even turn the sign: take `"node"` there.

    All rollouts, the clean one among them, are one batched evaluation. In a sequence network (`Recurrent`) noise is
    fresh at every step for nodes and activities, and weights keep theirs.

    Args:
        network: Any module; of a `Recurrent`, inputs are (batch, time, inputs). Its `Decorrelation` layers are not
            perturbed.
        loss: Maps (network(x), y) to losses of shape (batch, ...), such as `nn.MSELoss(reduction="none")`, of which the
            mean is taken; for a `Recurrent` (batch, time, ...). A scalar does too, but then all examples have one
            signal, with more variance, as they have where a batch norm uses the batch's statistics, so that one's noise
            reaches the losses of all. Default: cross-entropy of each example.
        kind: `"activity"` (ANP), `"node"` (NP) or `"weight"` (WP).
        sigma: Standard deviation σ of the noise.
        samples: Noisy rollouts, whose estimates are averaged.
        antithetic: Whether every sample is a pair, with the noise and with its opposite, in place of the clean pass.
        noise: `"gaussian"`, or `"signs"` for ±σ, which is cheaper and has less variance.
        whiten: Of activities only: divide δL Δ by the covariance of Δ in place of ⟨Δ²⟩, so that C becomes the identity
            (where no path leads around a layer).
            That of an example is estimated from its samples and, the fewer they are, from those of the whole batch. A
            variation of ours.
        explain: Of whitened activities: take off δL what later noise has done, as far as the signals of later calls
            tell it (`later_noise.signals_in_turn`), in layers with fewer units than samples. A variation of ours.
        credit: `"future"`: noise at a step of a `Recurrent` is credited with the losses of that step and all later
            ones; `"step"`: of that step alone, as in the authors' code.
        windows: Optimizer steps in which a sequence is learned, one part in time after another, the states of all
            rollouts being carried on; as many as time steps is learning online. They are the rule's `phases`.
        decorrelation: Learning rate η of the group "decorrelation"; 0 leaves `Decorrelation` layers as they are.

    Raises:
        UserError: An option is out of range or does not fit the network; in `backward`, with the default loss, a label
            is no class index.
        UnsupportedNetworkError: A layer cannot be perturbed, or evaluations cannot be batched; the message says why.
        NonFiniteError: In `backward`, when a loss is NaN or infinite; nothing is added to any `.grad`.

    >>> rule = NodePerturbation(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), kind="node", samples=4)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    follows_gradient: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        kind: Kind = "activity",
        sigma: float = 1e-2,
        samples: int = 1,
        antithetic: bool = False,
        noise: Noise = "gaussian",
        credit: Credit = "future",
        windows: int = 1,
        decorrelation: float = 0.0,
        whiten: bool = False,
        explain: bool = False,
    ) -> None:
        super().__init__(network, loss)
        for name, value, known in (("kind", kind, Kind), ("noise", noise, Noise), ("credit", credit, Credit)):
            if value not in get_args(known):
                raise UserError(f"{name} must be one of {', '.join(map(repr, get_args(known)))}, got {value!r}")
        check_number(sigma=sigma, above=True)
        check_whole(1, samples=samples, windows=windows)
        check_number(decorrelation=decorrelation)
        if decorrelation and not any(isinstance(layer, Decorrelation) for layer in network.modules()):
            raise UserError("decorrelation needs a layer to decorrelate by: make the network with decorrelate=True")
        if (whiten or explain) and not (whiten and kind == "activity"):
            raise UserError("whiten and explain are of activities, both: give whiten=True and kind='activity' too")
        if windows > 1 and not isinstance(network, Recurrent):
            raise UserError("windows divide the time of a sequence network (`networks.recurrent.Recurrent`): give one")
        self.kind, self.sigma, self.samples, self.antithetic = kind, sigma, samples, antithetic
        self.whiten, self.explain, self.noise, self.credit = whiten, explain, noise, credit
        self.windows, self.decorrelation = windows, decorrelation
        if self._classifies:
            self.loss = nn.CrossEntropyLoss(reduction="none")
        if windows > 1:
            self.phases = tuple(f"window {number}" for number in range(1, windows + 1))
        self._states: Tensor | None
        self.register_buffer("_states", None)  # of all rollouts, from window to window of one batch
        self._shapes: dict[Any, list[torch.Size]] = {}
        self._fixed: set[int] = set()  # calls whose first dimension is not the batch, though it may be as long
        if kind != "weight":
            check_reached(self._weights, self._layers, "perturb weights")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take over states of whatever shape, or that there are none."""
        found = state_dict.get(f"{prefix}_states")
        self._states = None if found is None else torch.empty_like(found, device=next(self.parameters()).device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; eight samples unless the options say otherwise."""
        del example, classes
        return cls(network, **{"samples": 8, **options})

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """All but recurrent modules of torch's own."""
        for name, module in network.named_modules():
            if isinstance(module, nn.RNNBase):
                kind = type(module).__name__
                return (
                    f"layer {name or 'network'} ({kind}) runs over time inside itself: write it with cells and a loop"
                )
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network's, and those of the decorrelation with a learning rate of their own."""
        groups: list[dict[str, Any]] = [{"name": "network", "params": list(self._weights.values())}]
        theirs = [layer.weight for layer in self.network.modules() if isinstance(layer, Decorrelation)]
        if self.decorrelation and theirs:
            groups.append({"name": "decorrelation", "params": theirs, "lr": self.decorrelation, "weight_decay": 0.0})
        return groups

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Compare noisy rollouts with the clean one, and credit what the noise has moved."""
        # In bfloat16 the small differences of losses would be lost.
        with torch.autocast(x.device.type, enabled=False), torch.no_grad():
            number = self.phases.index(phase)
            x, y = self._window(x, number), self._window(y, number)
            moves, noise = self._drawn_moves(x), self._drawn_noise()
            rollouts = roll_out(
                self.network,
                x,
                1 + self.samples * (1 + self.antithetic),
                layers=self._layers,
                moves=moves,
                weights={name: self._weights[name] + drawn for name, drawn in noise.items()},
                states=self._states if number else None,
            )
            losses = self._losses(rollouts.outputs, x, y)
            self._states = rollouts.states if number + 1 < self.windows else None
            change = self._against(losses)
            if self.kind == "weight":
                share = change.flatten(1).mean(dim=1) if change.ndim > 1 else change
                for name, drawn in noise.items():
                    gradient = torch.tensordot(share, self._against(drawn), dims=1)
                    add_gradient(self._weights[name], gradient / (self.samples * self.sigma**2))
            else:
                self._credit_nodes(rollouts, self._shared(change))
            if self.decorrelation:
                for layer, outputs in rollouts.decorrelated.items():
                    add_gradient(layer.weight, layer.direction(outputs))
            return losses[0].mean()

    def _shared(self, change: Tensor) -> Tensor:
        """δL that each example's noise is credited with: the whole loss's where batch norm mixes examples."""
        if change.ndim == 1 or not mixes_samples(self.network):
            return change
        return change.mean(dim=1) if change.ndim == 2 else change.sum(dim=1, keepdim=True).expand_as(change)

    def _credit_nodes(self, rollouts: Rollouts, change: Tensor) -> None:
        """Give each layer Σ g_t x_tᵀ, from δL of shape (samples,), (samples, batch) or (samples, batch, time)."""
        network, share = self.network, 1 / (self.samples * change[0].numel())
        explained = self._explained(rollouts, change) if self.explain else {}
        own = reached = change.movedim(2, 0) if change.ndim == 3 else change.unsqueeze(0)
        if change.ndim == 3 and self.credit == "future":
            reached = own.flip(0).cumsum(dim=0).flip(0)
        taught: dict[nn.Module, list[tuple[tuple[Tensor, ...], Tensor]]] = {}
        for number, call in enumerate(rollouts.calls):
            moved = self._against(call.moves if self.kind == "node" else call.outputs)
            if number in explained:
                signal = explained[number] / change[0].numel()
            elif isinstance(network, Recurrent):  # all steps at once; a readout acts on its own step alone
                signal = share * self._signal(own if call.layer is network.readout else reached, moved.transpose(0, 1))
            else:
                if change.ndim > 1 and (moved.shape[1] != change.shape[1] or number in self._fixed):
                    raise UserError(
                        f"layer {self._layers[call.layer]} gives {moved.shape[1]} rows for {change.shape[1]} "
                        f"examples{', and for one more as many' if number in self._fixed else ''}: let the batch come "
                        "first in every layer, or give a loss that is one number"
                    )
                signal = share * self._signal(own, moved[None])[0]
            signal = signal.flatten(0, 1) if isinstance(network, Recurrent) else signal
            taught.setdefault(call.layer, []).append((call.inputs, signal))
        for layer, calls in taught.items():
            teach(layer, calls)

    def _explained(self, rollouts: Rollouts, change: Tensor) -> dict[int, Tensor]:
        """Find the signals of the calls whose noise is explained, by their numbers; in a sequence, of all steps."""
        if change.ndim == 1:
            raise UserError(
                "explain needs the loss of each example: give a loss with reduction='none', and a network "
                "without batch norm"
            )
        readout = self.network.readout if change.ndim == 3 else None
        of_calls = []  # for each call its steps, of which only a sequence has several
        for call in rollouts.calls:
            parts = (self._against(part) for part in (call.outputs, call.moves))
            moved, drawn = (part.unbind(1) if change.ndim == 3 else (part,) for part in parts)
            steps = zip(moved, drawn, strict=True)
            of_calls.append([NoisyCall(d.flatten(2), xi.flatten(2), call.layer is readout) for d, xi in steps])
        in_order = [call for step in zip(*of_calls, strict=True) for call in step]
        signals = signals_in_turn(in_order, change, future=self.credit == "future")
        found = {}
        for number, call in enumerate(rollouts.calls):
            of_steps = [signal for signal in signals[number :: len(rollouts.calls)] if signal is not None]
            if of_steps:
                found[number] = torch.stack(of_steps).view(call.outputs.shape[1:])
        return found

    def _signal(self, change: Tensor, moved: Tensor) -> Tensor:
        """Sum g over the samples.

        Args:
            change: δL, shape (steps or 1, samples) or (steps or 1, samples, batch).
            moved: Noise or differences, shape (steps, samples, batch, ...).
        """
        along = moved.reshape(*moved.shape[:3], -1)
        product = (change.view(*change.shape, *[1] * (4 - change.ndim)) * along).sum(dim=1)
        if self.kind == "node":
            product = product / self.sigma**2
        elif self.whiten:
            product = divided(product, along)
        else:
            squares = along.square().flatten(1).mean(dim=1)
            product = product / squares.clamp_min(torch.finfo(along.dtype).tiny).view(-1, 1, 1)
        return product.view(moved.shape[0], *moved.shape[2:])

    def _against(self, values: Tensor) -> Tensor:
        """What noise has changed in each sample: against the clean rollout, or half of one against its opposite."""
        return (values[1::2] - values[2::2]) / 2 if self.antithetic else values[1:] - values[0]

    def _losses(self, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Losses of all rollouts: (rollouts,), (rollouts, batch) or, of a sequence, (rollouts, batch, time)."""
        y = self.checked_targets(y, outputs.shape[1:])
        if len(outputs) <= FEW:
            losses = torch.stack([self.loss(scores, y) for scores in outputs])
        else:
            losses = torch.vmap(lambda scores: self.loss(scores, y))(outputs)
        kept = 3 if isinstance(self.network, Recurrent) else 2
        if losses.ndim > kept:
            losses = losses.flatten(kept).mean(dim=kept)
        if losses.shape[1:] != outputs.shape[1 : losses.ndim]:
            raise UserError(
                f"loss must give a scalar or one number an example (a step), got shape {tuple(losses.shape[1:])}"
            )
        return self.finite_losses(losses, x)

    def _window(self, values: Tensor, number: int) -> Tensor:
        if self.windows == 1:
            return values
        if values.ndim < 2 or values.shape[1] < self.windows:
            raise UserError(f"sequences of shape {tuple(values.shape)} cannot be divided into {self.windows} windows")
        length, longer = divmod(values.shape[1], self.windows)  # as `tensor_split` divides, without making all parts
        return values.narrow(1, number * length + min(number, longer), length + (number < longer))

    def _drawn_moves(self, x: Tensor) -> list[Tensor]:
        """Noise for every call of a layer and every rollout; zero for the clean one."""
        if self.kind == "weight":
            return []
        key = (x.shape, self.training)
        if key not in self._shapes:
            self._shapes[key] = call_shapes(self.network, self._layers, x)
            if len(self._shapes) == 1 and not isinstance(self.network, Recurrent):
                self._fixed = calls_of_fixed_length(self.network, self._layers, x)
        like, shapes = next(self.network.parameters()), self._shapes[key]
        alike = {
            shape: iter(self._drawn((shapes.count(shape), *shape), like).unbind(1)) for shape in dict.fromkeys(shapes)
        }
        return [next(alike[shape]) for shape in shapes]

    def _drawn_noise(self) -> dict[str, Tensor]:
        """Noise for every weight and every rollout; zero for the clean one."""
        return {n: self._drawn(w.shape, w) for n, w in self._weights.items()} if self.kind == "weight" else {}

    def _drawn(self, shape: Sequence[int], like: Tensor) -> Tensor:
        noise = self.sigma * draw((self.samples, *shape), like, signs=self.noise == "signs")
        pairs = torch.stack([noise, -noise], dim=1).flatten(0, 1) if self.antithetic else noise
        return torch.cat([torch.zeros_like(pairs[:1]), pairs])

    @property
    def _weights(self) -> dict[str, nn.Parameter]:
        """The trainable parameters, without those of decorrelating layers."""
        apart = {id(layer.weight) for layer in self.network.modules() if isinstance(layer, Decorrelation)}
        return {n: p for n, p in self.network.named_parameters() if p.requires_grad and id(p) not in apart}

    @functools.cached_property
    def _layers(self) -> dict[nn.Module, str]:
        """The perturbed layers, with their names."""
        if self.kind == "weight":
            return {}
        layers = find_layers(self.network)
        layers |= modules_between(self.network, layers.values(), NORMS)
        return {
            layer: name or "network"
            for name, layer in layers.items()
            if not isinstance(layer, Decorrelation) and any(True for _ in layer.parameters())
        }


def divided(product: Tensor, differences: Tensor) -> Tensor:
    """Divide Σ δL Δ by the covariance of Δ.

    That of an example is estimated from its own samples and, with the weight of n further ones, from those of all.

    Args:
        product: Shape (steps, batch, n).
        differences: Δ, shape (steps, samples, batch, n).
    """
    own = differences.movedim(1, 2)
    samples, n = own.shape[2:]
    squares = own.mT @ own
    covariance = (squares + n / samples * squares.mean(dim=1, keepdim=True)) / (samples + n)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    diagonal += RIDGE * diagonal.mean(dim=-1, keepdim=True)
    return torch.linalg.solve(covariance, product)
