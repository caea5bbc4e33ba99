"""Forward gradients of local losses: every block, patch and group of channels has a loss of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, Self, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.functional import set_buffers
from beyondprop.rule import Rule, add_gradient, check_labels, descend
from beyondprop.rules.local.blockwise import block_starts, cut, output_shapes
from beyondprop.rules.perturbation.forward_gradient import evaluated_along, forward_mode, leaving_no_trace, watched
from beyondprop.rules.perturbation.noise import draw_noise
from beyondprop.sequential import is_plain

Gradient = Literal["forward-activities", "forward-weights", "backprop"]
Losses = Literal["global", "added", "block", "block+patch", "block+group", "block+patch+group"]
Teacher = Callable[[Tensor], Iterator[tuple[nn.Parameter, Tensor]]]
Draw = Callable[..., Tensor]
Moved = tuple[Tensor, Tensor | None, list[Teacher]]


@runtime_checkable
class LocalNetwork(Protocol):
    """What a module must offer for `LocalForwardGradient` to train it; `LocalMixer` does.

    Attributes:
        blocks: Modules, one after another; the first takes what `tokens` makes of a batch. A block may have a method
            `perturbed(h, dh, weights=..., draw=...)` that passes tangents on by hand, as `MixerBlock` has; of others
            forward-mode differentiation takes care.
        heads: For each block a linear layer from its channels to the classes, for features averaged over the patches.
        readout: The same behind the last block: the network's own output.
        groups: Of channels.
    """

    blocks: Any
    heads: Any
    readout: Any
    groups: int

    def tokens(self, x: Tensor) -> Tensor:
        """Make the first block's input of a batch."""

    def features(self, h: Tensor) -> Tensor:
        """View a block's output, or its tangent, as (batch, patches, channels)."""


class LocalForwardGradient(Rule):
    r"""Forward gradients with local losses (Ren, Kornblith, Liao and Hinton, arXiv 2210.03310, Section 4).

        L_{k,p,g} = CE(head_k(x̄_{p,g}), y),   x̄_{p,g} = (1/P) (x_p + Σ_{p'≠p} sg(x_{p'})),  x_p: sg but in group g
        δ_{p,g} = dL_{k,p,g} u_{p,g},   u ~ N(0, I) for every layer's output, sample by sample

    Every block k stops the gradient. A loss stands for each patch p and group g of channels; all have the same value,
    and only its own patch and group carry a tangent. So they need not be computed one by one: with e = dCE/d(logits),

        dL_{k,p,g} = (1/P) Σ_{c in g} dx_{p,c} (e W_k)_c

    which is one multiplication of the tangents that are there anyway. The noise of a number then meets only what
    depends on it, and the estimate's variance grows with a group's channels, not with the network. Tangents begin anew
    at each block. A layer learns by its own vector-Jacobian product, a head and the readout by their own derivatives.

    Args:
        network: A `LocalNetwork`.
        gradient: `"forward-activities"` (FG-A) or `"forward-weights"` (FG-W) estimates it; `"backprop"` computes the
            derivative, inside of what the losses leave connected.
        losses: `"global"`: that of the readout alone. `"added"`: those of the blocks beside it, and derivatives pass
            through all blocks (the paper's L-). The others are the paper's LG-, local and greedy: none passes from
            block to block. `"block"` has one loss a block; `"block+patch"`, `"block+group"` and `"block+patch+group"`
            have one for each patch, group, or both. To exact derivatives they are all the same.

    Raises:
        UserError: An option is none of the above; in `backward`, when a label is no class index.
        UnsupportedNetworkError: The network does not offer what is needed.
        NonFiniteError: In `backward`, when a block's loss is NaN or infinite; nothing is added to its `.grad`.

    >>> from beyondprop.networks.local_mixer import LocalMixer
    >>> network = LocalMixer((1, 8, 8), 10, blocks=2, side=2, channels=16, groups=4)
    >>> LocalForwardGradient(network).backward(torch.randn(5, 1, 8, 8), torch.arange(5)).shape
    torch.Size([])
    """

    follows_gradient: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        *,
        gradient: Gradient = "forward-activities",
        losses: Losses = "block+patch+group",
    ) -> None:
        super().__init__()
        if reason := self.supports(network):
            raise UnsupportedNetworkError(reason)
        for name, value, known in (("gradient", gradient, get_args(Gradient)), ("losses", losses, get_args(Losses))):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.network, self.gradient, self.losses = network, gradient, losses
        self._greedy = losses.startswith("block")

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """A network must offer what `LocalNetwork` says."""
        if not isinstance(network, LocalNetwork):
            return (
                f"{type(network).__name__} has no blocks, heads, readout, groups and tokens: take LocalMixer, write "
                "a network as LocalNetwork says, or make the rule by for_classifier from an nn.Sequential"
            )
        if len(network.blocks) != len(network.heads) or not len(network.blocks):
            return f"there are {len(network.heads)} heads for {len(network.blocks)} blocks: each needs one"
        return None

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """A network that offers what is needed, or a sequence with a hidden layer, and a linear layer at its end."""
        del example
        if isinstance(network, LocalNetwork):
            return cls.supports(network)
        if not is_plain(network):
            return f"only an nn.Sequential can be cut into blocks, and {cls.supports(network)}"
        starts = block_starts(network)
        if (
            len(starts) < 2
            or starts[-1] not in (len(network) - 1, len(network) - 2)
            or not isinstance(network[-1], nn.Linear)
        ):
            return "a sequence must have a hidden layer and end in a linear one, the readout"
        return None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Take a sequence's hidden layers for blocks with a head each and one patch and group; or a `LocalNetwork`."""
        if reason := cls.supports_classifier(network, example):
            raise UnsupportedNetworkError(reason)
        if isinstance(network, LocalNetwork):
            return cls(network, **options)
        assert isinstance(network, nn.Sequential)
        return cls(CutClassifier(network, example, classes), **options)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Walk through the blocks once."""
        del phase
        network: Any = self.network
        y = check_labels(y, network.readout.out_features)
        if self.gradient == "backprop":
            return self._backpropagate(x, y)
        with torch.no_grad():
            return self._walk(x, y)

    def _walk(self, x: Tensor, y: Tensor) -> Tensor:
        network: Any = self.network
        weights = self.gradient == "forward-weights"
        h, dh, waiting, total = network.tokens(x), None, list[Teacher](), x.new_zeros(1, 1, 1)
        for number, (block, head) in enumerate(zip(network.blocks, network.heads, strict=True), start=1):
            perturbed = getattr(block, "perturbed", None) or partial(_in_dual_numbers, block)
            h, dh, teachers = perturbed(h, dh, weights=weights, draw=self.noise)
            _, change = self._read(head, h, dh, y, f"block {number}")
            if self._greedy:
                _teach(teachers, change)
                dh = None
            else:
                waiting += teachers
                total = total + change if self.losses == "added" else total
        loss, change = self._read(network.readout, h, dh, y, "the readout")
        _teach(waiting, total + change)
        return loss

    def _read(self, head: nn.Linear, h: Tensor, dh: Tensor | None, y: Tensor, where: str) -> tuple[Tensor, Tensor]:
        """Teach a head; return its loss, and how the losses change: (batch, patches, groups), 1 where they are one."""
        network: Any = self.network
        x = network.features(h)
        pooled = x.mean(dim=1)
        logits = head(pooled)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, y)
        _check(loss, where)
        error = logits.softmax(dim=1)
        error[torch.arange(len(y), device=y.device), y] -= 1
        error /= len(y)
        add_gradient(head.weight, (error.mT @ pooled.to(error.dtype)).to(head.weight.dtype))
        if head.bias is not None:
            add_gradient(head.bias, error.sum(dim=0).to(head.bias.dtype))
        if dh is None:
            return loss, loss.new_zeros(1, 1, 1)
        wanted = (error @ head.weight.to(error.dtype) / x.shape[1])[:, None]
        change = (network.features(dh) * wanted).unflatten(2, (network.groups, -1)).sum(dim=3)
        if "patch" not in self.losses:
            change = change.sum(dim=1, keepdim=True)
        if "group" not in self.losses:
            change = change.sum(dim=2, keepdim=True)
        return loss, change

    def _backpropagate(self, x: Tensor, y: Tensor) -> Tensor:
        network: Any = self.network
        h, total = network.tokens(x), x.new_zeros(())
        for number, (block, head) in enumerate(zip(network.blocks, network.heads, strict=True), start=1):
            h = block(h)
            read = network.features(h.detach() if self.losses == "global" else h)
            loss = F.cross_entropy(head(read.mean(dim=1)), y)
            _check(loss, f"block {number}")
            if self._greedy:
                descend(loss, f"block {number}")
                h = h.detach()
            else:
                total = total + loss
        loss = F.cross_entropy(network.readout(network.features(h).mean(dim=1)), y)
        _check(loss, "the readout")
        descend(loss + total, "the readout")
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """Return the readout's class scores, shape (batch, classes)."""
        scores: Tensor = self.network(x)
        return scores

    @staticmethod
    def noise(value: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw u ~ N(0, I) of a tensor's shape."""
        return draw_noise(value, generator)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The blocks with their heads, and the readout, which the paper trains at a tenth of the learning rate."""
        network: Any = self.network
        own = {id(p) for p in network.readout.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = {"blocks": [p for p in trained if id(p) not in own], "readout": [p for p in trained if id(p) in own]}
        return [{"name": name, "params": parameters} for name, parameters in groups.items() if parameters]


class CutClassifier(nn.Module):
    """A classifier that is an `nn.Sequential`, as a `LocalNetwork` of one patch and one group.

    Args:
        network: Its hidden layers are the blocks, its last layer the readout; it is never changed.
        example: One input batch, run once without a trace.
        classes: Scores a sample.
    """

    groups = 1

    def __init__(self, network: nn.Sequential, example: Tensor, classes: int) -> None:
        super().__init__()
        self.network = network
        like = next(network.parameters())
        heads = [nn.Linear(shape.numel(), classes) for shape in output_shapes(self.blocks, network, example)]
        self.heads = nn.ModuleList(heads).to(device=like.device, dtype=like.dtype)

    @property
    def blocks(self) -> list[nn.Sequential]:
        """The hidden layers."""
        return cut(self.network, block_starts(self.network))[:-1]

    @property
    def readout(self) -> nn.Module:
        """The last layer."""
        return self.network[-1]

    def tokens(self, x: Tensor) -> Tensor:
        """Nothing is cut."""
        return x

    def features(self, h: Tensor) -> Tensor:
        """All numbers of a sample are the channels of its one patch."""
        return h.flatten(1)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the classifier gives."""
        scores: Tensor = self.network(x)
        return scores


def _in_dual_numbers(block: nn.Module, h: Tensor, dh: Tensor | None, *, weights: bool, draw: Draw) -> Moved:
    """Evaluate any block with random tangents; how all of its losses change together serves all that moves in it."""
    with forward_mode(block):
        return (_with_moving_weights if weights else _with_moving_activities)(block, h, dh, draw)


def _with_moving_activities(block: nn.Module, h: Tensor, dh: Tensor | None, draw: Draw) -> Moved:
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    with forward_ad.dual_level(), watched(block, partial(draw, generator=generator)) as calls:
        output = forward_ad.unpack_dual(block(h if dh is None else forward_ad.make_dual(h, dh)))

    def teach(change: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        with leaving_no_trace(block):
            for call in calls:
                yield from call.gradients(change.sum(dim=(1, 2)), len(h))

    return output.primal, output.tangent, [teach]


def _with_moving_weights(block: nn.Module, h: Tensor, dh: Tensor | None, draw: Draw) -> Moved:
    directions = {p: draw(p) for p in block.parameters() if p.requires_grad}
    with forward_ad.dual_level():
        given = h if dh is None else forward_ad.make_dual(h, dh)
        evaluated, buffers = evaluated_along(block, directions, given)
        output = forward_ad.unpack_dual(evaluated)
    set_buffers(buffers, block)

    def teach(change: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for parameter, direction in directions.items():
            yield parameter, direction * change.sum()

    return output.primal, output.tangent, [teach]


def _teach(teachers: list[Teacher], change: Tensor) -> None:
    for teacher in teachers:
        for parameter, gradient in teacher(change):
            add_gradient(parameter, gradient.to(parameter.dtype))


def _check(loss: Tensor, where: str) -> None:
    if not loss.isfinite():
        raise NonFiniteError(f"the loss of {where} is {loss.item()}: check the data, or lower the learning rate")
