"""The kernels of sparse layers: threads, instruction sets, number types, memory, and what they leave to torch."""

import types

import pytest
import torch
from sparse_pairs import LEVELS, agree, masked, needs_kernels
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.sparse import SparseConv2d, SparseLinear, function, library, limit_instruction_set

pytestmark = pytest.mark.usefixtures("always_kernels")


@needs_kernels
def test_threads_and_instruction_sets_agree():
    torch.manual_seed(0)
    layer, x = SparseConv2d(16, 32, 3, padding=1, sparsity=0.8), torch.randn(20, 16, 9, 9)
    results = []
    for threads in (1, 2, 5):
        for level in LEVELS:
            torch.set_num_threads(threads)
            limit_instruction_set(level)
            layer.zero_grad()
            inputs = x.clone().requires_grad_()
            out = layer(inputs)
            out.square().sum().backward()
            results.append((out.detach(), inputs.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_share_rows_that_hold_very_different_numbers_of_weights(threads):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    for rows, kept in ((511, slice(0, 511)), (300, slice(299, 300)), (300, slice(0, 1)), (65, slice(64, 65))):
        dense = nn.Linear(64, rows)
        with torch.no_grad():
            weight = dense.weight.clone()
            dense.weight.zero_()
            dense.weight[kept] = weight[kept]
        agree(SparseLinear.from_dense(dense), dense, torch.randn(8, 64))
    dense = nn.Conv2d(3, 70, 3)
    with torch.no_grad():
        dense.weight[:69] = 0
    agree(SparseConv2d.from_dense(dense), dense, torch.randn(2, 3, 5, 5))


@needs_kernels
def test_the_same_threads_give_the_same_bits():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    layer, x = SparseLinear(200, 100, sparsity=0.8), torch.randn(300, 200)

    def gradients():
        layer.zero_grad()
        layer(x).square().sum().backward()
        return layer.weight.grad.clone()

    assert torch.equal(gradients(), gradients())


@needs_kernels
@pytest.mark.parametrize("batch_last", [False, True])
def test_bfloat16_is_summed_in_float32(batch_last):
    torch.manual_seed(0)
    layer = SparseLinear(300, 40, sparsity=0.5, dtype=torch.bfloat16)
    layer.batch_last = batch_last
    x = torch.randn(9, 300, dtype=torch.bfloat16)
    exact = F.linear(x.double(), layer.dense_weight().double(), layer.bias.double())
    assert torch.equal(layer(x), exact.float().to(torch.bfloat16))
    agree(layer, layer.to_dense(), x, tolerance=5e-3)


def test_autocast_gives_its_type(way):
    layer, x = SparseLinear(30, 20), torch.randn(4, 30, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(out.float(), layer(x), rtol=1e-2, atol=2e-2)


@needs_kernels
@pytest.mark.parametrize(("groups", "stride", "dilation"), [(1, 1, 1), (3, 2, 1), (1, 2, 2)])
def test_bfloat16_convolutions(groups, stride, dilation):
    torch.manual_seed(0)
    options = {"groups": groups, "stride": stride, "dilation": dilation, "padding": 1, "dtype": torch.bfloat16}
    dense = nn.Conv2d(6, 9, 3, **options)
    sparse = masked(dense, 0.3)
    x = torch.randn(5, 6, 9, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    agree(sparse, dense, x, tolerance=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert sparse.float()(x.float()).dtype == torch.bfloat16


@needs_kernels
def test_a_chain_that_stays_batch_last_has_the_gradients_of_one_that_does_not():
    torch.manual_seed(0)
    chain = nn.Sequential(SparseConv2d(3, 8, 3, sparsity=0.5), nn.ReLU(), SparseConv2d(8, 4, 3, sparsity=0.5))
    x = torch.randn(9, 3, 8, 8)
    found = []
    for batch_last in (False, True):
        chain[0].batch_last = batch_last
        chain.zero_grad()
        given = x.clone().requires_grad_()
        chain(given).square().sum().backward()
        found.append([given.grad, *(p.grad.clone() for p in chain.parameters())])
    assert chain[0](x).stride(0) == 1
    for plain, chained in zip(*found, strict=True):
        torch.testing.assert_close(chained, plain, rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (library.SHORT_OF_MEMORY, MemoryError, "make batches smaller"),
        (99, UserError, "too large for the sparse kernels"),
    ],
)
def test_what_the_kernels_refuse_is_told(monkeypatch, status, error, says):
    refusing = types.SimpleNamespace(beyondprop_sparse_forward=lambda *_: status)
    layer = SparseLinear(6, 4, sparsity=0.5)
    x = torch.randn(2, 6)
    with monkeypatch.context() as patch:
        patch.setattr(library, "library", lambda: refusing)
        with pytest.raises(error, match=says):
            layer(x)


def test_without_kernels_plain_torch_computes(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(library, "__file__", str(tmp_path / "library.py"))
        library.library.cache_clear()
        assert library.instruction_set() is None
        dense = nn.Linear(6, 4)
        agree(masked(dense, 0.3), dense, torch.randn(3, 6))
    library.library.cache_clear()


@needs_kernels
def test_kernels_of_another_version_are_left_alone(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(library, "VERSION", -1)
        library.library.cache_clear()
        with pytest.warns(UserWarning, match="of another version"):
            library.library()
        assert library.instruction_set() is None
    library.library.cache_clear()


@needs_kernels
def test_batch_last_output_needs_no_copy():
    layer, x = SparseLinear(30, 20), torch.randn(40, 30)
    plain = layer(x)
    layer.batch_last = True
    assert layer(x).stride() == (1, 40)
    assert torch.equal(layer(x), plain)


@needs_kernels
def test_second_derivatives_under_autocast():
    layers, x = nn.Sequential(SparseLinear(6, 5), SparseLinear(5, 4)), torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        (slope,) = torch.autograd.grad(layers(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert layers[0].weight.grad.isfinite().all()


@needs_kernels
def test_work_grows_with_the_survivors_not_with_the_layer():
    layer = SparseLinear(1000, 1000, sparsity=0.99)
    assert layer.weight.numel() == 10_000
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(4, 1000, requires_grad=True))
    assert sum(t.numel() for t in saved) == 10_000 + 4 * 1000


def test_other_devices_and_types_take_the_way_of_torch():
    half, meta = {"dtype": torch.float16}, {"device": "meta"}
    assert not function.has_kernels(torch.randn(2, 3, **half), torch.randn(2, **half), torch.float16)
    assert not function.has_kernels(torch.randn(2, 3), torch.randn(2), torch.float16)
    assert not function.has_kernels(torch.randn(2, 3, **meta), torch.randn(2, **meta), torch.float32)
