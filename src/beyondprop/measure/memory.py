"""Memory of a training step, counted tensor by tensor: the same on every machine, unlike the size of the process."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from beyondprop.errors import UserError

CLASSES = ("parameters", "gradients", "optimizer", "inputs", "activations")


def peak_live_bytes(step: Callable[[], Any], module: nn.Module, *optimizers: Optimizer) -> dict[str, int]:
    """Run a training step once and count, after each operation, the bytes of all tensor storages that are alive.

    A storage counts once, however many tensors view it, from the operation that makes it until it is freed, even if by
    the garbage collector. What a kernel allocates inside itself and frees again is not seen, nor are sparse tensors.
    Run one step before, so that the optimizer's state exists; it is then counted from the start.

    Args:
        step: Called without arguments: forward and backward passes, the optimizer's step, whatever is to count.
        module: What is trained.
        *optimizers: Those that hold state for it.

    Returns:
        Bytes. `total`: the most that were alive at any one time. What each class had of them at that time: `parameters`
        (with buffers), `gradients` (what stands in `.grad`), `optimizer` (its state), `inputs` (whatever else the step
        found and used, such as the batch), `activations` (whatever else it made). `highest_activations`: the most that
        the last class had at any one time. A gradient counts as activation until it stands in `.grad`.

    >>> layer = nn.Linear(100, 50, bias=False)  # 20 kB of weights
    >>> x = torch.ones(10, 100)
    >>> layer(x).sum().backward()
    >>> peak = peak_live_bytes(lambda: layer(x).sum().backward(), layer)
    >>> peak["parameters"], peak["gradients"], peak["inputs"]
    (20000, 20000, 4000)
    >>> peak["activations"]  # the second gradient before it is added to the first, the sum, the sum's gradient
    20008
    """
    gc.collect()  # so that no garbage from before dies during the step
    storages = _LiveStorages(module, optimizers)
    with storages:
        step()
    return {**storages.peak, "highest_activations": storages.highest_activations}


def peak_saved_bytes(step: Callable[[], Any], module: nn.Module) -> int:
    """Run a training step once and find the most bytes that autograd keeps for backward passes at any one time.

    A storage counts once, however often it is saved; the module's own parameters and buffers do not count.

    Args:
        step: Called without arguments.
        module: What is trained.

    >>> layer = nn.Linear(100, 50)
    >>> x = torch.ones(10, 100)
    >>> peak_saved_bytes(lambda: layer(x).sum().backward(), layer)  # x, for the weights' gradient
    4000
    """
    ledger = _Ledger(_storage_ids(module))
    with torch.autograd.graph.saved_tensors_hooks(ledger.pack, ledger.unpack):
        step()
    return ledger.peak


def peak_allocated_bytes(step: Callable[[], Any], device: torch.device | str) -> int:
    """Run a training step once and ask CUDA's allocator what was allocated there at most.

    Unlike `peak_live_bytes` it counts everything on the device, whoever holds it, and what kernels need for
    themselves; so it depends on the device, the libraries and the size of the allocator's blocks. The allocator's own
    peak (`torch.cuda.max_memory_allocated`) begins anew with it.

    Args:
        step: Called without arguments.
        device: A CUDA device.

    Raises:
        UserError: It is another device.
    """
    device = torch.device(device)
    if device.type != "cuda":
        raise UserError(f"peak_allocated_bytes asks CUDA's allocator, not {device}: count with peak_live_bytes there")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


class _LiveStorages(TorchDispatchMode):
    """Sees every operation below autograd and keeps a book of the storages that went in or came out."""

    def __init__(self, module: nn.Module, optimizers: tuple[Optimizer, ...]) -> None:
        super().__init__()
        self.module, self.optimizers = module, optimizers
        self.book: dict[int, tuple[weakref.ref[Any], int, str]] = {}  # by id: the storage, its bytes, its class
        self.bytes = dict.fromkeys(CLASSES, 0)
        self.enter(chain(module.parameters(), module.buffers()), "parameters")
        self.classify()
        self.peak = {"total": sum(self.bytes.values()), **self.bytes}
        self.highest_activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.enter(tree_leaves((args, kwargs)), "inputs", move=False)
        result = func(*args, **(kwargs or {}))
        self.enter(tree_leaves(result), "activations", move=False)
        self.compare()
        return result

    def compare(self) -> None:
        """Note new peaks. Exact classes are needed for these alone: until then what is new counts as activation."""
        if self.bytes["activations"] > self.highest_activations or sum(self.bytes.values()) > self.peak["total"]:
            self.classify()
            self.highest_activations = max(self.highest_activations, self.bytes["activations"])
            total = sum(self.bytes.values())
            if total > self.peak["total"]:
                self.peak = {"total": total, **self.bytes}

    def classify(self) -> None:
        """Find what has become a gradient or a state of the optimizer."""
        self.enter((p.grad for p in self.module.parameters()), "gradients")
        for optimizer in self.optimizers:
            self.enter(tree_leaves(list(optimizer.state.values())), "optimizer")

    def enter(self, leaves: Any, kind: str, *, move: bool = True) -> None:
        """Book the storages of what is a tensor; known ones change their class only if they are to move."""
        for storage in _storages(leaves):
            key, size = id(storage), storage.nbytes()
            if key in self.book:
                reference, old_size, old_kind = self.book[key]
                new_kind = kind if move else old_kind
                if (size, new_kind) == (old_size, old_kind):
                    continue
                self.bytes[old_kind] -= old_size
            else:
                reference, new_kind = weakref.ref(storage, partial(self.leave, key)), kind
            self.book[key] = reference, size, new_kind
            self.bytes[new_kind] += size

    def leave(self, key: int, _: object) -> None:
        """Strike out a storage that was freed."""
        _, size, kind = self.book.pop(key)
        self.bytes[kind] -= size


class _Ledger:
    """Counts how often each storage is saved for backward."""

    def __init__(self, ignored: set[int]) -> None:
        self.ignored = ignored
        self.times: Counter[int] = Counter()
        self.live = self.peak = 0

    def pack(self, tensor: Tensor) -> _Saved:
        saved = _Saved(tensor.detach(), self)  # the tensor itself could hold the graph, and so itself, alive
        for storage in _storages([tensor]):
            if id(storage) not in self.ignored:
                saved.key, saved.size = id(storage), storage.nbytes()
                self.live += 0 if self.times[saved.key] else saved.size
                self.times[saved.key] += 1
                self.peak = max(self.peak, self.live)
        return saved

    @staticmethod
    def unpack(saved: _Saved) -> Tensor:
        return saved.tensor

    def release(self, key: int, size: int) -> None:
        self.times[key] -= 1
        self.live -= 0 if self.times[key] else size


class _Saved:
    """A saved tensor; the graph drops it when it needs it no longer."""

    def __init__(self, tensor: Tensor, ledger: _Ledger) -> None:
        self.tensor, self.ledger = tensor, ledger
        self.key, self.size = 0, 0

    def __del__(self) -> None:
        if self.size:
            self.ledger.release(self.key, self.size)


def _storages(leaves: Any) -> Iterator[torch.UntypedStorage]:
    return (x.untyped_storage() for x in leaves if isinstance(x, Tensor) and x.layout == torch.strided)


def _storage_ids(module: nn.Module) -> set[int]:
    return {id(storage) for storage in _storages(chain(module.parameters(), module.buffers()))}
