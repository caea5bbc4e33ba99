"""What sparse layers stand beside: the authors' package, torch's CSR tensors, and a loop nest compiled by Numba.

The authors' package is github.com/IST-DASLab/sparseprop at commit df97d8e, published as sparseprop 0.1.14. It is
built while it is installed, and wants pybind11 to be there already: `pip install pybind11`, then
`pip install --no-build-isolation sparseprop==0.1.14`. Nothing was patched. Its threads are those of torch's OpenMP.
Numba is wanted for its rows alone.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PEER = "sparseprop"


def has(name: str) -> bool:
    """Whether a package is installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def authors_forms(layer: nn.Linear | nn.Conv2d) -> dict[str, nn.Module]:
    """The layer in the forms that the authors' package has: one for linear layers, two for convolutions."""
    theirs = importlib.import_module("sparseprop.modules")
    if isinstance(layer, nn.Linear):
        return {"": theirs.SparseLinear.from_dense(layer)}
    return {form: theirs.SparseConv2d.from_dense(layer, form == "over rows") for form in ("batch last", "over rows")}


def authors_network(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A network in which the authors' own function has put its layers where it finds them faster."""
    swapped: nn.Module = importlib.import_module("sparseprop.utils").swap_modules_with_sparse(network, shape)
    return swapped


class CSRLinear(nn.Module):
    """A linear layer by torch's own sparse tensors, as its documentation has it: (W Xᵀ)ᵀ."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that they are in beta state
            self.weight = nn.Parameter(layer.weight.detach().to_sparse_csr())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return (self.weight @ x.t()).t()


def numba_forward(layer: nn.Linear, x: Tensor) -> tuple[Callable[[], Any], float]:
    """The plain loop nest over surviving weights, samples innermost, and the seconds until its first result."""
    numba = importlib.import_module("numba")

    @numba.njit(fastmath=True)
    def product(begin: Any, column: Any, value: Any, x: Any, out: Any) -> None:  # pragma: no cover (compiled)
        for row in range(len(begin) - 1):
            for k in range(begin[row], begin[row + 1]):
                w, m = value[k], column[k]
                for sample in range(x.shape[1]):
                    out[row, sample] += w * x[m, sample]

    sparse = layer.weight.detach().to_sparse_csr()
    begin, column = sparse.crow_indices().numpy(), sparse.col_indices().numpy()
    value, inputs = sparse.values().numpy(), np.ascontiguousarray(x.detach().numpy().T)

    def run() -> Tensor:
        out = np.zeros((len(begin) - 1, inputs.shape[1]), dtype=np.float32)
        product(begin, column, value, inputs, out)
        return torch.from_numpy(out).t()

    start = time.perf_counter()
    run()
    return run, time.perf_counter() - start
