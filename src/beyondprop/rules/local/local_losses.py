"""Blocks that each learn by a loss on their own output, which may be any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.inputs import check_classifier
from beyondprop.rule import check_labels
from beyondprop.rules.local.blockwise import Blockwise, Order, output_shapes

Objective = Callable[[Tensor, Tensor], Tensor]
MakeObjective = Callable[[torch.Size, int], Objective]


class LocalLosses(Blockwise):
    """Greedy local losses (Nøkland and Eidnes, arXiv 1901.06656, Section 2): each block has a loss of its own.

        L = Σ_k l_k(h_k, y) + loss(network(x), y),   h_k = block_k(stop_gradient(h_{k-1}))

    The sum runs over the hidden blocks; the last one, which gives the class scores, is trained by `loss`. Whatever a
    local loss has to learn (a linear classifier, say) belongs to the rule, not to the network: it predicts without it.

    Args:
        network: An `nn.Sequential` whose output is class scores; it is never changed.
        example: One input batch, run once without a trace, to see the shapes of the blocks' outputs.
        classes: Number of classes.
        objective: Makes a hidden block's local loss: called with the shape of its output, without the batch, and the
            number of classes; gives a function or an `nn.Module` that maps (output, labels) to a scalar.
        blocks, order: As `Blockwise`.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy.

    Raises:
        UnsupportedNetworkError: The network is no `nn.Sequential`, or a block does not suit the objective.
        UserError: `blocks` or `order` is none; in `backward`, a label is no class index.
        NonFiniteError: In `backward`, when a block's loss is NaN or infinite; the message names the block. Blocks
            before it have received their gradients by then.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> def spread_out(shape, classes):
    ...     return lambda h, y: -h.var(dim=0).mean()
    >>> rule = LocalLosses(network, torch.zeros(2, 4), 3, objective=spread_out)
    >>> rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape, len(rule.blocks)
    (torch.Size([]), 3)
    """

    # With more than one block, the sum of the losses also changes by what a block's step does to the inputs of those
    # behind it, which no gradient tells.
    follows_gradient: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        objective: MakeObjective,
        blocks: Sequence[int] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        order: Order = "together",
    ) -> None:
        check_classifier(network, example, classes)
        super().__init__(network, blocks, order)
        self.classes = classes
        self.loss = loss or F.cross_entropy
        like = next(network.parameters())
        made, shapes = [], output_shapes(self.blocks, network, example)
        if loss is None and shapes[-1] != (classes,):
            mend = "give a whole classifier, with its output layer" if len(shapes[-1]) > 1 else "they have to agree"
            raise UserError(f"the network gives {tuple(shapes[-1])} numbers a sample, and classes is {classes}: {mend}")
        for shape in shapes[:-1]:
            local = objective(shape, classes)
            if not callable(local):
                raise UserError(
                    "objective must make a local loss: called with a shape and the number of classes, it returned "
                    f"{type(local).__name__}, which cannot be called with (output, labels)"
                )
            if held := _held_layer(local):
                raise UserError(
                    f"objective made a function with a {held} in it, which no optimizer would find: make an nn.Module"
                )
            made.append(local if isinstance(local, nn.Module) else _Function(local))
        self.objectives = nn.ModuleList(made).to(device=like.device, dtype=like.dtype)

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Train the classifier itself; `LocalLosses` needs `objective` among the options."""
        return cls(network, example, classes, **options)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Let each block learn from its own output, and free its graph before the next one runs."""
        del phase
        y = check_labels(y, self.classes)

        def objective(index: int, h: Tensor) -> Tensor:
            if index + 1 == len(self.blocks):
                return self.loss(h, y)
            loss = self.objectives[index](h, y)
            if not isinstance(loss, Tensor) or loss.ndim:
                made = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise UserError(f"the objective of block {index + 1} must give a scalar tensor, it gives {made}")
            return loss

        return self.walk(x, None, objective)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's own output: class scores of shape (batch, classes)."""
        return self.network(x)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network, and what the local losses learn."""
        groups = {"network": self.network, "local losses": self.objectives}
        found = {name: [p for p in part.parameters() if p.requires_grad] for name, part in groups.items()}
        return [{"name": name, "params": parameters} for name, parameters in found.items() if parameters]


def _held_layer(local: Objective) -> str | None:
    """The type of a layer or parameter that a plain function closes over or belongs to."""
    if isinstance(local, nn.Module):
        return None
    cells = [cell.cell_contents for cell in getattr(local, "__closure__", None) or ()]
    held = [*cells, getattr(local, "__self__", None), *getattr(local, "args", ())]
    return next((type(each).__name__ for each in held if isinstance(each, nn.Module | nn.Parameter)), None)


class _Function(nn.Module):
    """A local loss that is a plain function."""

    def __init__(self, function: Objective) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        return self.function(h, y)
