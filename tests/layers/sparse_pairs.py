"""Sparse layers beside dense ones with zeros in their weights, in float64."""

import copy

import pytest
import torch
from torch import nn

from beyondprop.layers.sparse import SparseConv2d, SparseLinear, instruction_set

LEVELS = ("baseline", "avx2", "avx512")
needs_kernels = pytest.mark.skipif(instruction_set() is None, reason="the kernels were not built")


def agree(sparse, dense, x, gradient=None, tolerance=2e-6):
    """Compare a sparse layer's output and gradients with those of the dense layer in float64."""
    dense = copy.deepcopy(dense).double()
    x64 = x.detach().double().requires_grad_()
    x = x.detach().requires_grad_()
    out, out64 = sparse(x), dense(x64)
    assert out.shape == out64.shape
    assert out.dtype == x.dtype
    gradient = torch.randn(out64.shape) if gradient is None else gradient
    sparse.zero_grad()
    out.backward(gradient.to(out.dtype))
    out64.backward(gradient.double())
    kept = sparse.mask
    pairs = {
        "output": (out, out64),
        "input": (x.grad, x64.grad),
        "weight": (sparse.weight.grad, dense.weight.grad[kept]),
    }
    if sparse.bias is not None:
        pairs["bias"] = (sparse.bias.grad, dense.bias.grad)
    for name, (found, expected) in pairs.items():
        if expected.numel():
            # The sum of all gradients of an output may be nearly zero, and rounding goes by what was summed.
            size = gradient.norm() / expected.numel() ** 0.5 if name == "bias" else 1e-3
            error = (found.double() - expected).abs().max() / (expected.abs().max() + size)
            assert error < tolerance, (name, float(error))


def masked(dense, density):
    """Leave a share of a dense layer's weights, and make the sparse layer of them."""
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) < density)
    kind = SparseLinear if isinstance(dense, nn.Linear) else SparseConv2d
    return kind.from_dense(dense)
