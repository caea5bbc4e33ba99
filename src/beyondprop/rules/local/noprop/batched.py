"""Blocks of equal structure that run as one: `torch.vmap` over their stacked parameters.

vmap turns the T convolutions of a layer into one grouped convolution, and the T matrix products into one batched
product, so that a step of T blocks launches hardly more kernels than a step of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.functional import Tensors, run_with


def run_together(blocks: Sequence[nn.Module], z: Tensor, x: Tensor, *, compiled: bool = False) -> Tensor:
    """Run every block on its own z and the common x; gradients reach each block's own parameters.

    Buffers that a block moves, such as the statistics of batch norm, are moved in each; what else a block keeps from a
    call, it keeps in the first. Dropout draws other masks for each block, all from the present generator.

    Args:
        blocks: Blocks in which `find_difference` finds none.
        z: Noisy labels, shape (blocks, batch, d).
        x: The input batch.
        compiled: Whether to run under `torch.compile`.

    Returns:
        What the blocks return, stacked: shape (blocks, batch, classes) for class logits.

    Raises:
        UnsupportedNetworkError: vmap or torch.compile cannot run the blocks, or some are in training mode, others not.
    """
    modes = [[module.training for module in block.modules()] for block in blocks]
    if any(mode != modes[0] for mode in modes):
        raise UnsupportedNetworkError(
            'some blocks are in training mode and others are not, so they cannot run as one: use execution="loop"'
        )
    parameters = _stacked([dict(block.named_parameters()) for block in blocks])
    buffers = [dict(block.named_buffers()) for block in blocks]
    try:
        outputs, moved = (_compiled() if compiled else _vmapped)(blocks[0], parameters, _stacked(buffers), z, x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of vmap or torch.compile, or the block's own, which the loop would tell as it is
        how = "torch.compile" if compiled else "torch.vmap"
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedNetworkError(f'{how} cannot run the blocks as one ({reason}): use execution="loop"') from error
    with torch.no_grad():
        for name, values in moved.items():
            torch._foreach_copy_([own[name] for own in buffers], list(values.unbind()))
    return outputs


def find_difference(blocks: Sequence[nn.Module]) -> str | None:
    """Say how a block differs from the first in more than the values of its parameters and buffers, None if none does.

    Classes, shapes and every attribute of every module are compared: the first block's code runs for all.
    """
    first = dict(blocks[0].named_modules())
    for number, block in enumerate(blocks[1:], start=2):
        modules = dict(block.named_modules())
        if list(modules) != list(first):
            return f"block {number} is made of other modules than block 1"
        for name, module in modules.items():
            if what := _difference(first[name], module):
                return f"block {number} differs from block 1 in {name or 'the block itself'}: {what}"
    return None


def _difference(one: nn.Module, other: nn.Module) -> str | None:
    if type(one) is not type(other):
        return f"{type(other).__name__} is not {type(one).__name__}"
    for kind in ("_parameters", "_buffers"):
        mine, theirs = ({name: _shape(t) for name, t in getattr(module, kind).items()} for module in (one, other))
        if mine != theirs:
            return f"its tensors are {theirs}, not {mine}"
    mine, theirs = _attributes(one), _attributes(other)
    for name in mine.keys() | theirs.keys():
        if name not in mine or name not in theirs or not _same(mine[name], theirs[name]):
            return f"its attribute {name.lstrip('_')} is another"
    return None


def _shape(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _attributes(module: nn.Module) -> dict[str, Any]:
    apart = {"_parameters", "_buffers", "_modules", "training"}
    if isinstance(module, nn.RNNBase):  # its parameters once more
        apart |= {"_flat_weights", "_flat_weight_refs"}
    return {name: value for name, value in vars(module).items() if name not in apart}


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return bool(torch.equal(one, other) if isinstance(one, Tensor) else one == other)
    except Exception:  # whatever the user's own objects raise: what cannot be compared may differ
        return False


def _stacked(tensors: Sequence[Tensors]) -> Tensors:
    # The copy takes little beside the step, and leaves the blocks' parameters and their .grad ordinary tensors.
    return {name: torch.stack([each[name] for each in tensors]) for name in tensors[0]}


def _vmapped(
    skeleton: nn.Module, parameters: Tensors, buffers: Tensors, z: Tensor, x: Tensor
) -> tuple[Tensor, Tensors]:
    def run(parameters: Tensors, buffers: Tensors, z: Tensor) -> tuple[Tensor, Tensors]:
        return run_with(skeleton, parameters, buffers, (z, x))

    return torch.vmap(run, randomness="different")(parameters, buffers, z)


@functools.cache
def _compiled() -> Callable[..., tuple[Tensor, Tensors]]:
    return torch.compile(_vmapped)
