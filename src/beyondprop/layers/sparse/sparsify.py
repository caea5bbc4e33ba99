"""Find the layers of a network that are faster as sparse ones, by timing both."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError
from beyondprop.layers.sparse.layer import SparseLayer
from beyondprop.layers.sparse.modules import SparseLinear
from beyondprop.layers.sparse.pruning import Prunable, prunable_layers, replace, sparse_form
from beyondprop.rule import without_trace

_ELEMENTWISE = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Hardtanh, nn.ReLU6, nn.Softplus),
    *(nn.Identity, nn.Dropout),
)
ROUNDS = 11
ALWAYS_DENSE = 2.0  # no sparsity reaches this


@dataclass(frozen=True)
class Timed:
    """One layer, timed.

    Attributes:
        name: Its name in the network.
        sparsity: Share of its weights that are zero.
        plain_ms: Median time of the plain layer's forward and backward pass, milliseconds; its zeros would be trained.
        dense_ms: That of the layer that multiplies densely and keeps its zeros.
        sparse_ms: That of the sparse kernels.
        kept: `"sparse"` or `"dense"`: how it computes in the network that was made. Either way its zeros stay.
    """

    name: str
    sparsity: float
    plain_ms: tuple[float, float]
    dense_ms: tuple[float, float]
    sparse_ms: tuple[float, float]
    kept: str


@dataclass(frozen=True)
class Sparsified:
    """A network with sparse layers where they pay, and what was measured. Printed, it is a table."""

    network: nn.Module
    layers: tuple[Timed, ...]
    unused: tuple[str, ...] = ()
    """Layers that are sparse enough, and that the example did not pass: they stay as they are."""

    def __str__(self) -> str:
        """Lay the measurements out in columns."""
        left = [f"{name}: not timed, for the example does not pass it" for name in self.unused]
        if not self.layers:
            return "\n".join(left or ["no layer is sparse enough to be timed"])
        wide = max(len("layer"), *(len(one.name) for one in self.layers))
        ways = "  ".join(3 * [f"{'forward':>9} {'backward':>9}"])
        lines = [
            f"{'':{wide}}            {'plain, ms':>19}  {'dense, zeros kept, ms':>19}  {'sparse, ms':>19}",
            f"{'layer':{wide}}  sparsity  {ways}  kept",
        ]
        for one in self.layers:
            times = "  ".join(f"{f:9.3f} {b:9.3f}" for f, b in (one.plain_ms, one.dense_ms, one.sparse_ms))
            lines.append(f"{one.name:{wide}}  {one.sparsity:8.1%}  {times}  {one.kept}")
        return "\n".join([*lines, *left])


def sparsify(network: nn.Module, example: Tensor, *, above: float = 0.5) -> Sparsified:
    """Put sparse layers in the place of linear and convolution layers where that makes a training step faster.

    Each layer whose weights are zero to a share above `above` is run on the input that it gets from `example`, by the
    sparse kernels and by a dense product with zeros put in, in turn, after a warm-up; the smaller median of forward
    plus backward wins. Either form keeps its zeros in training; the plain layer, which would fill them, is timed beside
    both. Times are only as steady as the machine: where two forms are close, the verdict may change.

    Between neighbouring sparse layers, with elementwise functions in between, activations are left with samples
    innermost, which saves transposing them.

    Args:
        network: Any module; it stays as it is. Its layers may be sparse already.
        example: A batch of the size that training will have: what is faster depends on it.
        above: Least sparsity of layers that are tried, from 0 to 1.

    Returns:
        A copy of the network, whose parameters an optimizer is to be made of, and a table.

    Raises:
        UserError: `above` is out of range.

    >>> from beyondprop.layers.sparse import prune
    >>> found = sparsify(prune(nn.Linear(64, 64), 0.95), torch.randn(8, 64))
    >>> len(found.layers)
    1
    """
    if not 0 <= above <= 1:
        raise UserError(f"above is a share of weights, from 0 to 1, not {above}")
    network = copy.deepcopy(network)
    candidates = {name: layer for name, layer in prunable_layers(network).items() if _sparsity(layer) > above}
    timed: list[Timed] = []
    inputs = _inputs(network, example, candidates)
    for name, x in inputs.items():
        layer = candidates[name]
        sparse = sparse_form(layer) if isinstance(layer, nn.Linear | nn.Conv2d) else cast(SparseLinear, layer)
        sparse.kernels_from = 0.0
        dense = copy.deepcopy(sparse)
        dense.kernels_from = ALWAYS_DENSE
        first = x.data_ptr() == example.data_ptr()  # nobody asks for the gradient of the network's own input
        plain_ms, dense_ms, sparse_ms = _times([sparse.to_dense(), dense, sparse], x, wants_input=not first)
        faster = sum(sparse_ms) < sum(dense_ms)
        sparse.kernels_from = 0.0 if faster else ALWAYS_DENSE
        kept = "sparse" if faster else "dense"
        timed.append(Timed(name, sparse.sparsity, plain_ms, dense_ms, sparse_ms, kept))
        if not name:  # the network is this layer
            return Sparsified(sparse, tuple(timed))
        if sparse is not layer:
            replace(network, layer, sparse)
    _leave_batch_last(network)
    return Sparsified(network, tuple(timed), tuple(name for name in candidates if name not in inputs))


def _sparsity(layer: Prunable) -> float:
    return layer.sparsity if isinstance(layer, SparseLayer) else float((layer.weight == 0).float().mean())


def _inputs(network: nn.Module, example: Tensor, layers: dict[str, Prunable]) -> dict[str, Tensor]:
    """Run the network once, and give the input of each layer that was used."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            seen.setdefault(name, (inputs[0] if inputs else next(iter(named.values()))).detach())

        return hook

    hooks = [layer.register_forward_pre_hook(note(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with without_trace(network):
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _times(layers: list[nn.Module], x: Tensor, *, wants_input: bool) -> list[tuple[float, float]]:
    """Median milliseconds of forward and backward of each layer, measured in turn on copies."""
    x = x.clone().requires_grad_(wants_input)
    layers = [copy.deepcopy(layer).requires_grad_() for layer in layers]
    spent: list[list[tuple[float, float]]] = [[] for _ in layers]
    for number, (layer, times) in itertools.product(range(ROUNDS + 2), zip(layers, spent, strict=True)):
        layer.zero_grad()
        x.grad = None
        start = time.perf_counter()
        out = layer(x)
        middle = time.perf_counter()
        out.backward(torch.ones_like(out))
        if number >= 2:  # the first two warm up
            times.append((middle - start, time.perf_counter() - middle))
    return [(1e3 * statistics.median(f), 1e3 * statistics.median(b)) for f, b in (zip(*t, strict=True) for t in spent)]


def _leave_batch_last(network: nn.Module) -> None:
    """Between sparse layers of a kind with nothing but elementwise functions in between, samples stand innermost."""
    for chain in (module for module in network.modules() if isinstance(module, nn.Sequential)):
        layers = [module for module in chain if not isinstance(module, _ELEMENTWISE)]
        for first, second in itertools.pairwise(layers):
            if isinstance(first, SparseLayer) and type(first) is type(second):
                first.batch_last = all(layer.sparsity >= layer.kernels_from for layer in (first, second))
