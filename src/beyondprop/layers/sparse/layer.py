"""What sparse layers share: survivors, changes of them, and the way to the kernels."""

from __future__ import annotations

import copy
import math
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from beyondprop.errors import UserError
from beyondprop.layers.sparse.function import Call, SparseConvolution, dense_product, has_kernels, spreads_far, to_dense
from beyondprop.layers.sparse.pattern import Compiled, Convolution

Dense = TypeVar("Dense", nn.Linear, nn.Conv2d)
Layer = TypeVar("Layer", bound=nn.Module)


class SparseLayer(nn.Module):
    """What `SparseLinear` and `SparseConv2d` share: survivors, changes of them, and the way to the kernels.

    Attributes:
        weight: Values of the surviving weights, shape (nonzeros,), in the order of `indices`.
        indices: Their positions in the flattened dense weight, ascending, shape (nonzeros,). A buffer, so that a
            `state_dict` holds the pattern, and loading one brings its pattern along, whatever the layer had before.
        bias: Shape (outputs,), or None.
        kernels_from: Sparsity from which the kernels are used; below it a dense product with zeros is done. Which is
            faster depends on the shape and the machine: `benchmarks/results/sparse.json` has break-even below 50 %
            (convolutions, large linear layers) and up to 80 % (small ones), and `sparsify` measures it.
        keeps_dense_gradient: Whether a backward pass adds the gradient of all weights, the missing ones too, to
            `dense_gradient`: what growth by gradient looks at. It costs what a dense layer's does.
        batch_last: Whether the output is laid out with samples innermost in memory. Its shape is the same; the next
            sparse layer then needs no transposing. `sparsify` sets it between sparse layers.
    """

    indices: Tensor
    kernels_from: float = 0.6

    def __init__(self, conv: Convolution, dense: Tensor, indices: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        if not conv.channels or not conv.rows:
            raise UserError("a sparse layer has at least one input and one output")
        spread = math.prod(
            d * (k - 1) // s + 1 for d, k, s in zip(conv.dilation, conv.kernel, conv.stride, strict=True)
        )
        taps = max(spread, math.prod(conv.kernel))
        if max(conv.channels, conv.rows) * taps >= 2**31 or len(indices) >= 2**31:
            raise UserError("a sparse layer takes fewer than 2^31 weights of an output, and as many surviving ones")
        self.conv = conv
        self.batch_last = False
        self.keeps_dense_gradient = False
        self.dense_gradient: Tensor | None = None
        small = math.prod(conv.weight_shape) < 2**31
        self.register_buffer("indices", indices.to(torch.int32 if small else torch.int64))
        self.weight = nn.Parameter(dense.detach().flatten()[indices.long()].clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self._compiled: Compiled | None = None

    @property
    def compiled(self) -> Compiled:
        """The survivors in the order of the kernels, made anew when they have changed."""
        if self._compiled is None:
            self._compiled = Compiled(self.conv, self.indices)
        return self._compiled

    @property
    def sparsity(self) -> float:
        """Share of the dense layer's weights that are gone, from 0 to 1."""
        return 1 - self.weight.numel() / max(1, math.prod(self.conv.weight_shape))

    @property
    def mask(self) -> Tensor:
        """Where weights survive: a tensor of bools of the dense weight's shape."""
        flat = torch.zeros(math.prod(self.conv.weight_shape), dtype=torch.bool, device=self.indices.device)
        flat[self.indices.long()] = True
        return flat.view(self.conv.weight_shape)

    def dense_weight(self) -> Tensor:
        """The weight with its zeros, differentiable with respect to `weight`."""
        return to_dense(self.conv, self.indices, self.weight)

    def change_mask(
        self, mask: Tensor, optimizer: torch.optim.Optimizer | None = None, values: Tensor | None = None
    ) -> None:
        """Let other weights survive. Those that did before keep their value.

        Args:
            mask: Bools of the dense weight's shape.
            optimizer: Where its state has one number for each weight (momentum, second moments), the numbers follow
                their weights; those of new weights begin at zero. Without it, make a new optimizer afterwards.
            values: What new weights begin with, of the dense weight's shape; by default 0.

        Raises:
            UserError: The mask has another shape or type.
        """
        new = positions(self.conv, mask).to(self.indices.device)
        start = None if values is None else values.detach().flatten()
        old = self.indices.long()

        def carried(value: Tensor, fresh: Tensor | None = None) -> Tensor:
            dense = value.new_zeros(mask.numel()) if fresh is None else fresh.to(value, copy=True)
            dense[old] = value
            return dense[new]

        gradient = self.weight.grad
        resize(self.weight, carried(self.weight.data, start))
        if gradient is not None:
            self.weight.grad = carried(gradient)
        if optimizer is not None:
            state = optimizer.state.get(self.weight, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == old.shape and value.dim() == 1:
                    state[name] = carried(value)
        self.indices = new.to(self.indices.dtype)
        self._compiled = None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs: what the dense layer with zeros in its weight computes, up to rounding."""
        dtype = self._output_type(x)
        by_kernels = has_kernels(x, self.weight, dtype) and not spreads_far(self.conv, x)
        if self.sparsity < self.kernels_from or not by_kernels:
            bias = None if self.bias is None else self.bias.to(dtype)
            dense = self.dense_weight()
            if self.keeps_dense_gradient and dense.requires_grad:
                dense.register_hook(self._add_dense_gradient)
            return dense_product(self.conv, x.to(dtype), dense.to(dtype), bias)
        watcher = self._keep_dense_gradient if self.keeps_dense_gradient else None
        call = Call(self.compiled, dtype, self.batch_last, watcher)
        return SparseConvolution.apply(x.resolve_neg(), self.weight.contiguous(), self.bias, call)

    def _output_type(self, x: Tensor) -> torch.dtype:
        if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
            return torch.get_autocast_dtype(x.device.type)
        if x.dtype != self.weight.dtype:
            raise UserError(
                f"the input is {x.dtype}, the layer's weight {self.weight.dtype}: convert one of them with .to()"
            )
        return x.dtype

    def _keep_dense_gradient(self, x: Tensor, d_out: Tensor) -> None:
        x, d_out = x.to(self.weight.dtype), d_out.to(self.weight.dtype)
        if self.conv.linear:
            gradient = d_out.t() @ x
        else:
            conv = self.conv
            gradient = conv2d_weight(x, conv.weight_shape, d_out, conv.stride, conv.padding, conv.dilation, conv.groups)
        self._add_dense_gradient(gradient)

    def _add_dense_gradient(self, gradient: Tensor) -> None:
        gradient = gradient.detach()
        self.dense_gradient = gradient if self.dense_gradient is None else self.dense_gradient + gradient

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self.__class__.__new__(self.__class__)
        memo[id(self)] = other
        other.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__getstate__().items()})
        return other

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        indices, weight = state_dict.get(prefix + "indices"), state_dict.get(prefix + "weight")
        if (indices is None) != (weight is None):
            raise UserError(f"{prefix}weight and {prefix}indices belong together: load both or neither")
        if indices is not None and weight is not None:
            size = math.prod(self.conv.weight_shape)
            fits = indices.dim() == 1 and indices.shape == weight.shape and not indices.is_floating_point()
            flat = indices.long()
            if not fits or (
                len(flat) and not (int(flat[0]) >= 0 and int(flat[-1]) < size and bool((flat.diff() > 0).all()))
            ):
                raise UserError(
                    f"the pattern of {prefix or 'the layer'} in this state_dict is not that of a weight of shape "
                    f"{tuple(self.conv.weight_shape)}: positions must ascend and be smaller than {size}"
                )
            if indices.shape != self.indices.shape:
                self.indices = self.indices.new_empty(indices.shape)
                resize(self.weight, self.weight.data.new_empty(weight.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._compiled = None


def resize(weight: nn.Parameter, values: Tensor) -> None:
    """Give a parameter values of another number. What a graph that is still alive knows of its size is forgotten."""
    weight.grad = None
    with torch.no_grad():
        # Only a change of type makes autograd drop the node that accumulates gradients of the old shape.
        weight.data = torch.empty(0, dtype=torch.float16 if weight.dtype != torch.float16 else torch.float32)
        weight.data = values


def share_of(layer: SparseLayer) -> str:
    """What both kinds of layers tell of themselves."""
    return f"bias={layer.bias is not None}, sparsity={layer.sparsity:.4g}"


def survivors(conv: Convolution, mask: Tensor | None, weight: Tensor) -> Tensor:
    """Flat positions of a mask, or of the weights that are not zero."""
    return positions(conv, weight.detach() != 0 if mask is None else mask).to(weight.device)


def positions(conv: Convolution, mask: Tensor) -> Tensor:
    """Flat positions of a mask.

    Raises:
        UserError: It has another shape than the dense weight, or another type than bool.
    """
    shape = tuple(conv.weight_shape)
    if tuple(mask.shape) != shape or mask.dtype != torch.bool:
        raise UserError(f"the mask is {mask.dtype} of shape {tuple(mask.shape)}: give bools of shape {shape}")
    return mask.flatten().nonzero().flatten()


def check_sparsity(sparsity: float | None) -> float:
    """Refuse what is no share of weights that can be left out.

    Raises:
        UserError: It is missing, below 0, or 1 or more.
    """
    if sparsity is None or not 0 <= sparsity < 1:
        raise UserError(f"sparsity must be at least 0 and below 1, not {sparsity}")
    return sparsity


def random_positions(size: int, sparsity: float) -> Tensor:
    """Draw the flat positions that survive of so many, ascending; at least one does."""
    kept = max(1, round(size * (1 - check_sparsity(sparsity))))
    return torch.randperm(size)[:kept].sort().values


def drawn(
    conv: Convolution, sparsity: float, mask: Tensor | None, bias: bool, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw a dense weight, the positions that survive and a bias."""
    kept = random_positions(math.prod(conv.weight_shape), sparsity) if mask is None else positions(conv, mask)
    bound = max(1.0, len(kept) / conv.rows) ** -0.5
    weight = torch.empty(conv.weight_shape, dtype=dtype).uniform_(-bound, bound)
    return weight, kept, torch.empty(conv.rows, dtype=dtype).uniform_(-bound, bound) if bias else None


def filled(dense: Dense, layer: SparseLayer) -> Dense:
    """Copy a sparse layer's values into a dense one."""
    with torch.no_grad():
        dense.weight.copy_(layer.dense_weight())
        if layer.bias is not None and dense.bias is not None:
            dense.bias.copy_(layer.bias)
    return like(dense, layer)


def like(layer: Layer, other: nn.Linear | nn.Conv2d | SparseLayer) -> Layer:
    """Take over what is trained, and whether it is being trained."""
    layer.weight.requires_grad_(other.weight.requires_grad)
    if layer.bias is not None and other.bias is not None:
        layer.bias.requires_grad_(other.bias.requires_grad)
    return layer.train(other.training)
