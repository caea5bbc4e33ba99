"""Which weights go: by magnitude at once, little by little, or in exchange for others while a network learns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from beyondprop.checks import check_whole
from beyondprop.errors import UserError
from beyondprop.layers.sparse.layer import SparseLayer, check_sparsity
from beyondprop.layers.sparse.modules import SparseConv2d, SparseLinear

Growth = Literal["random", "gradient"]
Prunable = nn.Linear | nn.Conv2d | SparseLayer


def prunable_layers(network: nn.Module, skip: Iterable[str] = ()) -> dict[str, Prunable]:
    """Name the linear and convolution layers of a network, dense and sparse.

    Subclasses of torch's layers are left out, such as the output of `nn.MultiheadAttention`, which reads a weight past
    the layer, and layers with a parametrization, such as weight norm.

    Args:
        network: Any module.
        skip: Names of layers that are left out.

    Raises:
        UserError: A name of `skip` is none of the network's.
    """
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, SparseLayer) or (type(layer) in (nn.Linear, nn.Conv2d) and not is_parametrized(layer))
    }
    for name in skip:
        if layers.pop(name, None) is None:
            raise UserError(f"there is no layer {name!r} to skip: the layers are {', '.join(layers) or 'none'}")
    return layers


def to_sparse(network: nn.Module, skip: Iterable[str] = ()) -> nn.Module:
    """Put sparse layers in the place of a network's linear and convolution layers, in place.

    Each keeps the weights that are not zero; with none that is, it keeps all, and can be pruned later. Make optimizers
    afterwards: the layers have parameters of their own.

    Args:
        network: Any module.
        skip: Names of layers that stay dense.

    Returns:
        The network itself, or the sparse layer where the network is one layer.
    """
    for name, layer in prunable_layers(network, skip).items():
        if isinstance(layer, SparseLayer):
            continue
        sparse = sparse_form(layer)
        if not name:
            return sparse
        replace(network, layer, sparse)
    return network


def replace(network: nn.Module, layer: nn.Module, other: nn.Module) -> None:
    """Put one layer in the place of another, wherever the network has it."""
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module is layer:
            network.set_submodule(name, other)


def sparse_form(layer: nn.Linear | nn.Conv2d, mask: Tensor | None = None) -> SparseLinear | SparseConv2d:
    """Make the sparse layer that keeps the weights of a dense one that are not zero, or those of a mask."""
    if isinstance(layer, nn.Linear):
        return SparseLinear.from_dense(layer, mask)
    return SparseConv2d.from_dense(layer, mask)


def prune(
    network: nn.Module,
    sparsity: float | None = None,
    how: str = "uniform",
    *,
    skip: Iterable[str] = (),
    optimizer: Optimizer | None = None,
) -> nn.Module:
    """Remove the weights of least magnitude, in place.

    Sparse layers lose them; in dense layers they become zero, which a later step of an optimizer undoes: make the
    layers sparse by `to_sparse` before training on.

    Args:
        network: Any module.
        sparsity: Share of the weights that are to be zero afterwards, from 0 to below 1; not with N:M. A sparse layer
            that lacks more already stays as it is.
        how: `"uniform"` gives each layer that share, `"global"` compares the weights of all layers, and `"N:M"`, such
            as `"2:4"`, keeps the N largest of every M weights that an output reads one after another.
        skip: Names of layers that are left as they are.
        optimizer: Its state follows the weights of sparse layers.

    Returns:
        The network.

    Raises:
        UserError: There is nothing to prune; a value is out of range.

    >>> network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> sum(int((p == 0).sum()) for p in prune(network, 0.75).parameters())
    30
    """
    layers = prunable_layers(network, skip)
    if not layers:
        raise UserError("there is no linear or convolution layer to prune")
    for name, kept in _kept(layers, sparsity, how).items():
        _keep(layers[name], kept, optimizer)
    return network


def _kept(layers: dict[str, Prunable], sparsity: float | None, how: str) -> dict[str, Tensor]:
    sizes = {name: _size(layer) for name, layer in layers.items()}
    if ":" in how:
        if sparsity is not None:
            raise UserError(f"{how} says itself how many weights stay: leave sparsity out, got {sparsity}")
        return {name: _n_of_m(size, how, name) for name, size in sizes.items()}
    sparsity = check_sparsity(sparsity)
    if how == "uniform":
        return {name: _largest(size, round(size.numel() * (1 - sparsity))) for name, size in sizes.items()}
    if how == "global":
        flat = torch.cat([size.flatten().float().cpu() for size in sizes.values()])
        kept = _largest(flat, round(flat.numel() * (1 - sparsity))).split([size.numel() for size in sizes.values()])
        return {n: part.view(s.shape).to(s.device) for (n, s), part in zip(sizes.items(), kept, strict=True)}
    raise UserError(f'weights are pruned "uniform", "global" or "N:M", such as "2:4", not {how!r}')


def _largest(size: Tensor, count: int) -> Tensor:
    """Mark the `count` largest; which of equal ones is up to topk."""
    mask = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
    mask[size.flatten().topk(count).indices] = True
    return mask.view(size.shape)


def _n_of_m(size: Tensor, how: str, name: str) -> Tensor:
    try:
        n, m = (int(part) for part in how.split(":"))
    except ValueError:
        raise UserError(f'N:M takes two whole numbers, such as "2:4", not {how!r}') from None
    inputs = size[0].numel()
    if not 1 <= n <= m:
        raise UserError(f"N:M keeps N of every M weights: N from 1 to M, not {how}")
    if inputs % m:
        raise UserError(f"{name or 'the layer'} reads {inputs} inputs, of which {m} do not make whole groups: skip it")
    groups = size.reshape(-1, m)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    return mask.scatter_(1, groups.topk(n, dim=1).indices, True).view(size.shape)


def _size(layer: Prunable) -> Tensor:
    """Magnitudes, below 0 where a weight is gone: those that are zero by chance go after them."""
    if isinstance(layer, SparseLayer):
        return layer.dense_weight().detach().abs().masked_fill(~layer.mask, -1.0)
    return layer.weight.detach().abs()


def _keep(layer: Prunable, kept: Tensor, optimizer: Optimizer | None) -> None:
    if isinstance(layer, SparseLayer):
        layer.change_mask(kept & layer.mask, optimizer)
    else:
        with torch.no_grad():
            layer.weight.mul_(kept)


class GradualPruning:
    """Prune by magnitude while a network learns, as M. Zhu and S. Gupta (arXiv 1710.01878, eq. 1).

        s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))³

    A callback of `training.fit`, or to be called after each step of a loop of one's own.

    Args:
        network: Its sparse layers are pruned; see `to_sparse`.
        sparsity: s_f, at the end.
        begin: t_0, the step from which on weights go.
        end: t_1, the step at which the last ones go.
        every: Steps from one pruning to the next.
        how: As of `prune`.
        initial: s_i.
        skip: Names of layers that are left as they are.

    Raises:
        UserError: A value is out of range, or there is no sparse layer.
    """

    def __init__(
        self,
        network: nn.Module,
        sparsity: float,
        *,
        begin: int,
        end: int,
        every: int = 100,
        how: Literal["uniform", "global"] = "uniform",
        initial: float = 0.0,
        skip: Iterable[str] = (),
    ) -> None:
        check_whole(0, begin=begin)
        check_whole(1, every=every)
        if not 0 <= initial <= sparsity < 1:
            raise UserError(f"sparsity grows from at least 0 to below 1, not from {initial} to {sparsity}")
        if end <= begin:
            raise UserError(f"pruning ends after it begins: end is {end}, begin {begin}")
        self.network, self.skip = network, tuple(skip)
        layers = prunable_layers(network, self.skip)
        if not layers or not all(isinstance(layer, SparseLayer) for layer in layers.values()):
            raise UserError("gradual pruning needs sparse layers: make them by to_sparse, or skip the dense ones")
        self.sparsity, self.initial, self.how = sparsity, initial, how
        self.begin, self.end, self.every = begin, end, every

    def at(self, step: int) -> float:
        """The sparsity wanted at a step."""
        share = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.sparsity + (self.initial - self.sparsity) * (1 - share) ** 3

    def before_step(self, step: int, optimizer: Optimizer | None = None) -> None:
        """Do nothing: weights go after a step."""

    def after_step(self, step: int, optimizer: Optimizer | None = None) -> None:
        """Prune, where the schedule says so. Steps are counted from 1."""
        due = self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)
        if due:
            prune(self.network, self.at(step), self.how, skip=self.skip, optimizer=optimizer)


class DynamicSparseTraining:
    """Exchange weights while a sparse network learns: the smallest go, as many others come.

    Others are drawn at random (SET: Mocanu et al., arXiv 1707.04780) or are those whose gradient would be largest
    (RigL: Evci et al., arXiv 1911.11134, section 3). Each layer exchanges the share f_t of its weights:

        f_t = α/2 (1 + cos(π t / T))

    New weights begin with 0. A callback of `training.fit`.

    Args:
        network: Its sparse layers exchange weights.
        end: T, the step after which nothing is exchanged.
        every: Steps from one exchange to the next.
        fraction: α.
        growth: `"random"` or `"gradient"`; the second computes dense gradients at the steps where weights come.

    Raises:
        UserError: A value is out of range, or there is no sparse layer.
    """

    def __init__(
        self, network: nn.Module, *, end: int, every: int = 100, fraction: float = 0.3, growth: Growth = "random"
    ) -> None:
        check_whole(1, end=end, every=every)
        if not 0 < fraction < 1:
            raise UserError(f"the exchanged fraction is above 0 and below 1, not {fraction}")
        if growth not in ("random", "gradient"):
            raise UserError(f'weights grow "random" or by "gradient", not {growth!r}')
        self.layers = [layer for layer in network.modules() if isinstance(layer, SparseLayer)]
        if not self.layers:
            raise UserError("there is no sparse layer whose weights could be exchanged: make them by to_sparse")
        self.end, self.every, self.fraction, self.growth = end, every, fraction, growth

    def _is_due(self, step: int) -> bool:
        return step % self.every == 0 and step < self.end

    def before_step(self, step: int, optimizer: Optimizer | None = None) -> None:
        """Ask for dense gradients, where they will be needed."""
        for layer in self.layers:
            layer.keeps_dense_gradient = self.growth == "gradient" and self._is_due(step)

    def after_step(self, step: int, optimizer: Optimizer | None = None) -> None:
        """Exchange weights, where the schedule says so. Steps are counted from 1."""
        if not self._is_due(step):
            return
        share = self.fraction / 2 * (1 + math.cos(math.pi * step / self.end))
        for layer in self.layers:
            self._exchange(layer, share, optimizer)
            layer.keeps_dense_gradient, layer.dense_gradient = False, None

    def _exchange(self, layer: SparseLayer, share: float, optimizer: Optimizer | None) -> None:
        mask, values = layer.mask, layer.dense_weight().detach()
        missing = mask.numel() - int(mask.sum())
        count = min(round(share * layer.weight.numel()), missing)
        if not count:
            return
        kept = _largest(values.abs().masked_fill(~mask, -1.0), layer.weight.numel() - count)
        if self.growth == "gradient":
            if layer.dense_gradient is None:
                raise UserError("growth by gradient needs before_step to be called before the step's backward pass")
            wish = layer.dense_gradient.abs()
        else:
            wish = torch.rand(mask.shape, device=mask.device)
        grown = _largest(wish.masked_fill(mask, -1.0), count)  # what goes now does not come back at once
        layer.change_mask(kept | grown, optimizer)
