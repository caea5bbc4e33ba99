"""Perturbing one layer at a time, its weights or its nodes, as multiplexed gradient descent was scaled up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.layers.batch_norms import BATCH_NORMS
from beyondprop.rule import add_gradient
from beyondprop.rules.network_rule import NetworkRule
from beyondprop.rules.perturbation.division import Division
from beyondprop.rules.perturbation.perturbed import refuse_narrow
from beyondprop.sequential import flattened, is_plain, out_of_place

Perturb = Literal["weights", "nodes"]


class LayerwisePerturbation(NetworkRule):
    r"""Perturbation of one layer at a time (Oripov et al., arXiv 2501.15403), of its weights or of its nodes.

        C̃_n = C_n(layer l perturbed by a s) - C_n,    s in {±1}^{P_l},  a = norm / √P_l
        weights:  G_l = mean over steps and samples of C̃_n s / norm
        nodes:    G_l = ∂z_l/∂W_l · (mean over steps of C̃_n s / norm), averaged over samples

    P_l counts the layer's parameters, or its nodes: all numbers that it gives for one sample, each pixel of a
    convolution among them. Then G_l is divided by √(1/P_l + 1/τ - 1/(P_l τ)) for τ steps, so that its expected length
    is that of the gradient, whatever P_l and τ; one learning rate does for layers of all sizes. Without that, G_l √P_l
    is an unbiased estimate of the gradient to lowest order in the norm.

    The network is evaluated, and differentiated nowhere; for nodes, a layer's own vector-Jacobian product brings the
    signal at its nodes to its parameters, as its inputs are known. The layers before the perturbed one are evaluated
    once, those behind it on all perturbed copies as one batch.

    Args:
        network: An `nn.Sequential`, which may hold others; each child that has parameters is a layer. A sequence with a
            `forward` of its own is one layer.
        loss: Maps (network(x), y) to one loss a sample, shape (batch,). Default: cross-entropy.
        perturb: `"weights"` or `"nodes"`.
        steps: τ, perturbations of each layer in a call, which writes `.grad`. All samples have the same signs.
        norm: Length of a perturbation of all that a layer has.
        normalise: Whether G_l has the gradient's length, as in the paper; otherwise it is the unbiased estimate.
        cost_noise: Standard deviation of noise on every read of a sample's perturbed cost.
        at_once: Perturbed samples that are evaluated as one batch, at least.

    Raises:
        UserError: An option is out of range; in `backward`, the loss does not give one number a sample, or with the
            default loss a label is no class index.
        UnsupportedNetworkError: The network is no `nn.Sequential`, or a layer mixes or drops at random; the message
            names it.
        NonFiniteError: In `backward`, when a loss is NaN or infinite; nothing is added to any `.grad`.

    >>> rule = LayerwisePerturbation(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), perturb="nodes")
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    follows_gradient: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        perturb: Perturb = "nodes",
        steps: int = 100,
        norm: float = 1e-2,
        normalise: bool = True,
        cost_noise: float = 0.0,
        at_once: int = 512,
    ) -> None:
        super().__init__(network, loss)
        if perturb not in ("weights", "nodes"):
            raise UserError(f"perturb must be 'weights' or 'nodes', got {perturb!r}")
        check_whole(1, steps=steps, at_once=at_once)
        check_number(norm=norm, above=True)
        check_number(cost_noise=cost_noise)
        self.perturb, self.steps, self.norm, self.normalise = perturb, steps, norm, normalise
        self.cost_noise, self.at_once = cost_noise, at_once
        self.division = Division()
        if self._classifies:
            self.loss = nn.CrossEntropyLoss(reduction="none")

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """A sequence of layers that treat every sample alike, whatever else is in the batch."""
        if not is_plain(network):
            return (
                f"{cls.__name__} evaluates what stands behind each layer: it takes an nn.Sequential, "
                f"not {type(network).__name__}"
            )
        if not any(p.requires_grad for p in network.parameters()):
            return f"{cls.__name__} has nothing to perturb: no parameter of the network is trainable"
        for name, module in network.named_modules():
            if isinstance(module, BATCH_NORMS):
                return f"layer {name} ({type(module).__name__}) mixes samples of a batch: use GroupNorm or LayerNorm"
            if isinstance(module, _InstanceNorm) and module.track_running_stats:
                return (
                    f"layer {name} ({type(module).__name__}) would move its statistics by every perturbed copy: make "
                    "it with track_running_stats=False"
                )
            drops = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
            if isinstance(module, nn.RReLU) or (isinstance(drops, float) and drops > 0):
                return f"layer {name} ({type(module).__name__}) would drop others in every perturbed copy: leave it out"
        return None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself; `example` and `classes` are not needed."""
        del example, classes
        return cls(network, **options)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Perturb one layer after another, and ask how each sample's loss has changed."""
        del phase
        refuse_narrow(dict(self.network.named_parameters()))
        estimate = self._weights if self.perturb == "weights" else self._nodes
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # wiggles are below bfloat16's rounding
            layers = [layer for _, layer in flattened(self.network)]
            values = [x]
            for layer in layers:
                values.append(out_of_place(layer, values[-1]))
            y = self.checked_targets(y, values[-1].shape)
            run = _Run(layers, values, y, self._losses(values[-1], y, x))
            trained = [place for place, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())]
            found = [estimate(place, run) for place in trained]
        for place, estimated in zip(trained, found, strict=True):
            self._teach(layers[place], values[place], estimated)
        return run.losses.mean()

    def _losses(self, scores: Tensor, y: Tensor, x: Tensor) -> Tensor:
        losses = self.loss(scores, y)
        if losses.shape != y.shape[:1]:
            raise UserError(f"loss must give one number a sample, shape ({len(y)},), got {tuple(losses.shape)}")
        return self.finite_losses(losses, x, "the learning rate or norm")

    def _nodes(self, place: int, run: _Run) -> Tensor:
        """What the layer's output is to move against, of its own shape (batch, ...)."""
        value = run.values[place + 1]
        size = value[0].numel()
        amplitude = self.norm / math.sqrt(size)

        def moved(signs: Tensor) -> Tensor:
            return value + amplitude * signs.view(len(signs), 1, *value.shape[1:])

        signs, changes = self._changes(size, moved, place, run)
        return (changes.T @ signs).view(value.shape) * (self._scale(size) / len(value))

    def _weights(self, place: int, run: _Run) -> Tensor:
        """What the layer's parameters are to move against, flat."""
        layer, value = run.layers[place], run.values[place]
        trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
        sizes = [p.numel() for p in trained.values()]
        size = sum(sizes)
        amplitude = self.norm / math.sqrt(size)

        def moved(signs: Tensor) -> Tensor:
            parts = zip(trained.items(), signs.split(sizes), strict=True)
            weights = {name: p + amplitude * part.view(p.shape) for (name, p), part in parts}
            output: Tensor = functional_call(layer, weights, (value,))
            return output

        signs, changes = self._changes(size, torch.vmap(moved), place, run)
        return changes.mean(dim=1) @ signs * self._scale(size)

    def _changes(self, size: int, moved: Callable[[Tensor], Tensor], place: int, run: _Run) -> tuple[Tensor, Tensor]:
        """Draw signs for all steps, and find how much each sample's loss differs under them.

        Args:
            size: Signs of a step.
            moved: From K rows of signs to the layer's values, shape (K, batch, ...).
            place: The layer's place.
            run: Without perturbations.

        Returns:
            Signs of shape (steps, size), changes of shape (steps, batch).
        """
        signs = torch.randint(2, (self.steps, size), dtype=torch.int8, device=run.losses.device).mul_(2).sub_(1)
        signs, batch = signs.to(run.losses.dtype), len(run.losses)
        found = [run.losses.new_zeros(0, batch)]
        own = signs[self.division.rows(len(signs))]
        for piece in own.split(max(1, self.at_once // batch)) if len(own) else ():
            scores = moved(piece).flatten(0, 1)
            for layer in run.layers[place + 1 :]:
                scores = layer(scores)
            changed = self._losses(scores, run.y.repeat(len(piece), *[1] * (run.y.ndim - 1)), run.values[0])
            found.append(changed.view(len(piece), batch))
        changed = self.division.complete(torch.cat(found), len(signs))
        if self.cost_noise > 0:
            changed = changed + self.cost_noise * torch.randn_like(changed)
        return signs, changed - run.losses

    def _scale(self, size: int) -> float:
        """From the sum over steps of C̃ s to G."""
        if not self.normalise:
            return math.sqrt(size) / (self.norm * self.steps)
        return 1 / (self.norm * self.steps * math.sqrt(1 / size + 1 / self.steps - 1 / (size * self.steps)))

    def _teach(self, layer: nn.Module, value: Tensor, estimate: Tensor) -> None:
        """Add to each `.grad` of a layer."""
        parameters = [p for p in layer.parameters() if p.requires_grad]
        if self.perturb == "weights":
            gradients = [
                part.view(p.shape)
                for p, part in zip(parameters, estimate.split([p.numel() for p in parameters]), strict=True)
            ]
        else:
            output = layer(value.detach())
            gradients = list(torch.autograd.grad(output, parameters, estimate))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            add_gradient(parameter, gradient)


class _Run(NamedTuple):
    """An evaluation without perturbations: the layers, what went into each and came out, targets and losses."""

    layers: list[nn.Module]
    values: list[Tensor]
    y: Tensor
    losses: Tensor
