"""Back-propagation that costs what the surviving weights cost."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError
from beyondprop.layers.sparse import SparseLayer
from beyondprop.layers.sparse.layer import random_positions
from beyondprop.layers.sparse.pruning import prunable_layers, replace, sparse_form
from beyondprop.rules.signals.backprop import Backprop


class SparseProp(Backprop):
    """SparseProp (Nikdan et al., arXiv 2302.04852, section 3): sparse forward and backward passes.

        O = W x,    dX = Wᵀ dO,    dW_nm = <dO_n, X_m> over the batch, for the surviving (n, m) alone

    The layers do the work (`beyondprop.layers.sparse`); this is back-propagation through a network that has some.

    Args:
        network: With at least one `SparseLinear` or `SparseConv2d`; `to_sparse`, `prune` and `sparsify` make one.
        loss: As of `Backprop`.

    Raises:
        UnsupportedNetworkError: No layer is sparse.

    >>> from beyondprop.layers.sparse import prune, to_sparse
    >>> network = prune(to_sparse(nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))), 0.8)
    >>> rule = SparseProp(network)
    >>> loss = rule.backward(torch.ones(2, 20), torch.tensor([0, 2]))
    >>> rule.network[0].weight.grad.shape
    torch.Size([40])
    """

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Any network with a sparse layer."""
        if any(isinstance(layer, SparseLayer) for layer in network.modules()):
            return None
        return "no layer is sparse: make sparse layers by to_sparse and prune, or by sparsify"

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Any network with a linear or convolution layer."""
        del example
        return None if prunable_layers(network) else "there is no linear or convolution layer that could be sparse"

    @classmethod
    def for_classifier(
        cls, network: nn.Module, example: Tensor, classes: int, *, sparsity: float = 0.65, skip: int = 1, **options: Any
    ) -> Self:
        """Make a sparse copy of a classifier, by random masks.

        Args:
            network: It stays as it is.
            example: Not needed.
            classes: Not needed.
            sparsity: Share of each layer's weights that are left out.
            skip: So many layers at the beginning, and as many at the end, stay dense, where any are left in between.
            **options: As of the constructor.

        Raises:
            UserError: There is no linear or convolution layer; the sparsity is out of range.
        """
        del example, classes
        return cls(random_masks(copy.deepcopy(network), sparsity, skip), **options)


def outer_layers(network: nn.Module, skip: int) -> list[str]:
    """Name the layers that stay dense: the first and last `skip` ones, unless no other is left."""
    names = list(prunable_layers(network))
    if not names:
        raise UserError("there is no linear or convolution layer that could be sparse")
    return [*names[:skip], *names[len(names) - skip :]] if len(names) > 2 * skip else []


def random_masks(network: nn.Module, sparsity: float, skip: int) -> nn.Module:
    """Make layers sparse in place, by masks drawn at random; survivors grow so that outputs keep their size.

    Args:
        network: Freshly drawn.
        sparsity: Share of each layer's weights that are left out.
        skip: As of `for_classifier`.
    """
    for name, layer in prunable_layers(network, outer_layers(network, skip)).items():
        if isinstance(layer, SparseLayer):
            raise UserError(f"{name or 'the layer'} is sparse already: give the dense network")
        size = layer.weight.numel()
        kept = random_positions(size, sparsity)
        mask = torch.zeros(size, dtype=torch.bool).index_fill_(0, kept, True).view(layer.weight.shape)
        sparse = sparse_form(layer, mask)
        with torch.no_grad():
            sparse.weight.div_((len(kept) / size) ** 0.5)
        if not name:
            return sparse
        replace(network, layer, sparse)
    return network
