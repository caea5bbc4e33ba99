"""A sequence of layers cut into blocks, of which each learns from its own output alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.inputs import check_example, running_example
from beyondprop.rule import Rule, descend, eval_mode, without_trace
from beyondprop.rules.local.sharing import shared_parameter
from beyondprop.sequential import children_of, is_plain

Order = Literal["together", "one-by-one"]

# These have parameters and yet begin no block: they belong to the layer before them.
FOLLOWERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.PReLU)


class Blockwise(Rule):
    """A rule that trains the blocks of an `nn.Sequential`; no gradient passes from one block to another.

    Args:
        network: Its children, in order, are the layers; it is never changed.
        blocks: Positions of the children at which blocks begin, the first of them 0. Default: a block begins at every
            child that has parameters and is neither a normalisation nor a PReLU, or at the `nn.Flatten` before it, and
            goes on to the next.
        order: `"together"`: every batch trains all blocks. `"one-by-one"`: each block is trained to its end before the
            next one begins; the stages are the blocks. Those that are done run in evaluation mode.

    Raises:
        UnsupportedNetworkError: The network is no `nn.Sequential`, has no parameters, or blocks share a parameter.
        UserError: `blocks` or `order` is none of the above.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[int] | None = None, order: Order = "together") -> None:
        super().__init__()
        if reason := self.supports(network):
            raise UnsupportedNetworkError(reason)
        if order not in ("together", "one-by-one"):
            raise UserError(f"order must be 'together' or 'one-by-one', got {order!r}")
        if not (blocks is None or (isinstance(blocks, Sequence) and all(isinstance(start, int) for start in blocks))):
            raise UserError(f"blocks must be a list of children's positions, such as [0, 3, 5], got {blocks!r}")
        self.network = network
        self._starts = list(self.default_starts(network) if blocks is None else blocks)
        # In a tuple, so that the modules are not registered a second time.
        self._blocks: tuple[nn.Sequential, ...] = ()
        if reason := shared_parameter(self.blocks):
            raise UnsupportedNetworkError(reason)
        self.order = order
        if order == "one-by-one":
            self.stages = tuple(f"block {number}" for number in range(1, len(self.blocks) + 1))

    @property
    def blocks(self) -> tuple[nn.Sequential, ...]:
        """The network's children as blocks; a child that has been replaced is in its block."""
        if children_of(self.network) != [child for block in self._blocks for child in block]:
            self._blocks = tuple(cut(self.network, self._starts))
        return self._blocks

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Only sequences can be cut."""
        if not is_plain(network):
            return (
                f"{cls.__name__} cuts an nn.Sequential into blocks, and this is {type(network).__name__}: "
                "write it as nn.Sequential, with a module of yours as a child wherever layers belong together"
            )
        if not block_starts(network):
            return f"{cls.__name__} has nothing to train: no child of the nn.Sequential is a layer with parameters"
        if network._forward_hooks or network._forward_pre_hooks:
            return f"{cls.__name__} runs the children one by one, without the network's own hooks: put them on a child"
        return None

    @classmethod
    def default_starts(cls, network: nn.Module) -> list[int]:
        """Where blocks begin unless the user says it."""
        return block_starts(network)

    def walk(
        self,
        x: Tensor,
        first: nn.Module | None,
        objective: Callable[[int, Tensor], Tensor],
        enter: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Run the blocks, and let those that the present stage trains learn.

        Args:
            x: The first block's input; of a gradient that it carries only the first block makes use.
            first: Run in the first block's place, where x has come through a part of it already.
            objective: Called with a block's index and its output; gives its loss, a scalar.
            enter: Applied to what enters the blocks behind the first.

        Returns:
            The sum of the losses.
        """
        total = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        only = None if self.stage is None else self.stages.index(self.stage)
        for index, block in enumerate(self.blocks):
            trained = only is None or only == index
            run = first if index == 0 and first is not None else block
            with nullcontext() if trained else finished(block):
                x = run(x if enter is None or index == 0 else enter(x))
            if x.requires_grad and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
                x.register_hook(_channels_last)
            if trained:
                loss = objective(index, x)
                if x.requires_grad and not loss.requires_grad:
                    raise UserError(
                        f"the loss of block {index + 1} does not depend on its output: it can learn nothing by it"
                    )
                descend(loss, f"block {index + 1}")
                total = total + loss.detach()
            if only == index:
                break
            x = x.detach()
        return total


class HiddenLayers(Blockwise):
    """A rule of hidden layers alone: of a classifier it leaves the output layer out, for it predicts by other means."""

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """A sequence with a hidden layer."""
        del example
        if reason := cls.supports(network):
            return reason
        if len(block_starts(network)) < 2:
            return "the rule trains hidden layers, and this classifier has none before its output layer"
        return None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier's hidden layers; the output layer, where its last block begins, is left out.

        Raises:
            UnsupportedNetworkError: There is no hidden layer; and as the constructor.
        """
        if reason := cls.supports_classifier(network, example):
            raise UnsupportedNetworkError(reason)
        make: Callable[..., Self] = cls
        return make(hidden_layers(network), example, classes, **options)


def hidden_layers(network: nn.Module) -> nn.Sequential:
    """The children of a sequence before its last block, which is the output layer of a classifier."""
    return nn.Sequential(*children_of(network)[: block_starts(network)[-1]])


def block_starts(network: nn.Module) -> list[int]:
    """Positions of the children that begin a block; the first block takes whatever stands before it.

    >>> block_starts(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)))
    [0, 4]
    """
    children, starts = children_of(network), list[int]()
    for position, child in enumerate(children):
        if any(
            next(module.parameters(recurse=False), None) is not None and not isinstance(module, FOLLOWERS)
            for module in child.modules()
        ):
            flattened = position > 0 and isinstance(children[position - 1], nn.Flatten)
            starts.append(position - flattened)
    return [0, *starts[1:]] if starts else []


def cut(network: nn.Module, starts: Sequence[int]) -> list[nn.Sequential]:
    """Cut a sequence into blocks that begin at these positions.

    Raises:
        UserError: They do not begin at 0 and rise, or go beyond the last child, or a block would have no parameters.
    """
    children = children_of(network)
    rising = list(starts) == sorted(set(starts)) and len(starts) > 0 and starts[0] == 0 and starts[-1] < len(children)
    if not rising:
        raise UserError(
            f"blocks must be rising positions of children, the first 0 and the last at most {len(children) - 1}: got "
            f"{list(starts)}"
        )
    made = [nn.Sequential(*children[a:b]) for a, b in zip(starts, [*starts[1:], len(children)], strict=True)]
    for number, block in enumerate(made, start=1):
        if next(block.parameters(), None) is None:
            raise UserError(f"block {number} has no parameters: let `blocks` begin it elsewhere")
    return made


def output_shapes(blocks: Sequence[nn.Module], network: nn.Module, example: Tensor) -> list[torch.Size]:
    """Shapes of what the blocks give for an example, without the batch; they are run once without a trace.

    Raises:
        UserError: The example is float64 and the network float32.
        UnsupportedNetworkError: A block does not return one tensor with the batch first.
    """
    check_example(example, network)
    shapes = []
    with running_example(example), without_trace(network):
        for number, block in enumerate(blocks, start=1):
            made: Any = block(example)
            if not isinstance(made, Tensor) or made.ndim < 2 or len(made) != len(example):
                raise UnsupportedNetworkError(f"block {number} must return one tensor of shape (batch, ...)")
            example = made
            shapes.append(made.shape[1:])
    return shapes


def outputs_in_turn(blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
    """Yield what each block gives for x, without a graph; to be used before the next is asked for.

    No more than two blocks' outputs are alive so, and a block that begins with an operation in place, which overwrites
    the output of the one before it, does no harm.
    """
    for block in blocks:
        with torch.no_grad():  # not around the yield, where it would be the caller's too
            x = block(x)
        yield x


@contextmanager
def finished(block: nn.Module) -> Iterator[None]:
    """Run a block that does not learn: without a graph, and in evaluation mode."""
    with eval_mode(block), torch.no_grad():
        yield


def _channels_last(gradient: Tensor) -> Tensor:
    """Gradients that come through a flatten are in the other order, in which batch norms take three times as long."""
    return gradient.contiguous(memory_format=torch.channels_last)
