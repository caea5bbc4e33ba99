"""The kernels of sparse layers, and plain torch in their place."""

import pytest
import torch

from beyondprop.layers.sparse import SparseLayer, instruction_set, limit_instruction_set


@pytest.fixture
def always_kernels(monkeypatch):
    """Takes the kernels at every sparsity, and leaves threads and instruction set as they were."""
    monkeypatch.setattr(SparseLayer, "kernels_from", 0.0)  # whatever would be faster
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    limit_instruction_set("avx512")


@pytest.fixture(params=["kernels", "torch"])
def way(request, monkeypatch):
    """Both ways to the same result."""
    if request.param == "torch":
        monkeypatch.setattr("beyondprop.layers.sparse.layer.has_kernels", lambda *_: False)
    elif instruction_set() is None:
        pytest.skip("the kernels were not built")
    return request.param
