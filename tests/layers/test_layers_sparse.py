"""Sparse layers against dense ones with zeros in their weights, in float64."""

import copy
import pickle
import random
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.sparse import (
    SparseConv2d,
    SparseLayer,
    SparseLinear,
    function,
    instruction_set,
    library,
    limit_instruction_set,
)

LEVELS = ("baseline", "avx2", "avx512")
needs_kernels = pytest.mark.skipif(instruction_set() is None, reason="the kernels were not built")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
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


def random_linear(dice):
    """A linear layer and a batch for it, of any size and layout."""
    batch, inputs, outputs = dice.choice([1, 2, 4, 12, 16, 33, 100, 130]), dice.randint(1, 200), dice.randint(1, 300)
    x = torch.randn(batch, inputs)
    return nn.Linear(inputs, outputs, bias=dice.random() < 0.7), x.t().contiguous().t() if dice.random() < 0.3 else x


def random_convolution(dice):
    """A convolution and images for it, of any size, stride, padding, dilation, groups and layout."""
    groups = dice.choice([1, 1, 2, 3])
    channels, outputs = groups * dice.randint(1, 9), groups * dice.randint(1, 9)

    def pair(low, high):
        return dice.randint(low, high), dice.randint(low, high)

    kernel, stride, dilation, padding = pair(1, 4), pair(1, 3), pair(1, 2), pair(0, 3)
    least = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    x = torch.randn(dice.choice([1, 2, 4, 5, 12, 16, 33, 100]), channels, *(dice.randint(size, 20) for size in least))
    dense = nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, groups, bias=dice.random() < 0.7)
    return dense, laid_out(x, dice)


def laid_out(x, dice):
    """The same images in memory of a random order."""
    layout = dice.choice(["contiguous", "channels_last", "batch_last", "strided"])
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "batch_last":
        return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    if layout == "strided":
        return torch.stack([x, x], 4).flatten(3)[..., ::2]
    return x


def compare_random_layers(count, seed):
    dice = random.Random(seed)
    torch.manual_seed(seed)
    for i in range(count):
        limit_instruction_set(dice.choice(LEVELS))
        torch.set_num_threads(dice.choice([1, 1, 1, 1, 1, 2, 3]))
        dense, x = random_linear(dice) if i % 2 else random_convolution(dice)
        double = i % 5 == 0
        dense, x = (dense.double(), x.double()) if double else (dense, x)
        sparse = masked(dense, dice.choice([0.0, 0.02, 0.1, 0.3, 1.0]))
        sparse.batch_last = dice.random() < 0.3
        sparse.kernels_from = dice.choice([0.0, 0.0, 0.0, 0.0, 0.0, 2.0])  # in plain torch, too
        out = copy.deepcopy(dense).double()(x.double())  # oneDNN's own convolution in float32 crashes on one of these
        gradient = torch.randn(out.shape, dtype=torch.float64)
        if gradient.dim() == 4:
            gradient = laid_out(gradient, dice)
        if dice.random() < 0.1:
            gradient = gradient[:1].expand_as(gradient)
        agree(sparse, dense, x, gradient=gradient, tolerance=1e-12 if double else 2e-6)


@needs_kernels
def test_random_layers_equal_dense_ones():
    compare_random_layers(300, seed=1)


@needs_kernels
@pytest.mark.slow
def test_two_thousand_random_layers_equal_dense_ones():
    compare_random_layers(2000, seed=2)


@pytest.mark.parametrize("batch", [1, 4, 12, 100])
def test_any_batch_size(batch, way):
    torch.manual_seed(0)
    agree(*(masked(d := nn.Conv2d(8, 16, 3, padding=1), 0.2), d), torch.randn(batch, 8, 7, 7))
    agree(*(masked(d := nn.Linear(40, 30), 0.2), d), torch.randn(batch, 40))


def test_more_weights_of_an_output_than_sixteen_bits_count(way):
    torch.manual_seed(0)
    dense = nn.Conv2d(512, 2, 9)
    sparse = masked(dense, 0.9)
    assert int(sparse.mask.flatten(1).sum(1).min()) > 32767
    agree(sparse, dense, torch.randn(2, 512, 10, 10), tolerance=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_images_that_are_worked_on_in_several_bands(stride, way):
    torch.manual_seed(0)
    dense = nn.Conv2d(64, 6, 5, stride=stride, padding=2)
    agree(masked(dense, 0.05), dense, torch.randn(3, 64, 40, 40), tolerance=1e-5)


def test_expanded_gradients(way):
    torch.manual_seed(0)
    dense = nn.Conv2d(4, 6, 3, stride=2)
    sparse = masked(dense, 0.5)
    x = torch.randn(3, 4, 9, 9)
    agree(sparse, dense, x, gradient=torch.ones(()).expand(3, 6, 4, 4))
    sparse(x).sum().backward()
    assert sparse.weight.grad.isfinite().all()


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_no_and_all_weights(density, way):
    torch.manual_seed(0)
    for dense, x in ((nn.Linear(20, 30), torch.randn(5, 20)), (nn.Conv2d(4, 6, 3), torch.randn(5, 4, 8, 8))):
        agree(masked(dense, density), dense, x)


def test_rows_without_weights(way):
    torch.manual_seed(0)
    dense = nn.Linear(20, 30)
    with torch.no_grad():
        dense.weight[5:25] = 0
    sparse = SparseLinear.from_dense(dense)
    agree(sparse, dense, torch.randn(7, 20))
    assert torch.equal(sparse(torch.randn(7, 20))[:, 5:25], dense.bias[5:25].expand(7, 20))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: SparseLinear(5, 4, sparsity=0.5, dtype=torch.float64),
        lambda: SparseConv2d(2, 4, (2, 3), (2, 1), (1, 2), (1, 2), sparsity=0.4, dtype=torch.float64),
        pytest.param(
            lambda: SparseConv2d(4, 4, 3, 1, "same", groups=2, sparsity=0.4, dtype=torch.float64),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: SparseConv2d(2, 3, 2, padding=1, padding_mode="circular", sparsity=0.4, dtype=torch.float64),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_gradients_equal_finite_differences(layer, way):
    torch.manual_seed(0)
    layer = layer()
    x = torch.randn((3, 5) if isinstance(layer, SparseLinear) else (3, layer.conv.channels, 5, 6), dtype=torch.float64)

    def output(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = tuple(t.clone().requires_grad_() for t in (x, layer.weight.detach(), layer.bias.detach()))
    assert torch.autograd.gradcheck(output, inputs)
    assert torch.autograd.gradgradcheck(lambda *given: output(*given).tanh(), inputs, check_fwd_over_rev=False)


@pytest.mark.parametrize("padding", ["same", "valid", (2, 1)])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_padding_is_that_of_torch(padding, mode):
    torch.manual_seed(0)
    dense = nn.Conv2d(3, 4, (3, 5), padding=padding, padding_mode=mode, dilation=(2, 1))
    sparse = masked(dense, 0.5)
    agree(sparse, dense, torch.randn(2, 3, 8, 9))
    x = torch.randn(2, 3, 8, 9)
    torch.testing.assert_close(sparse.to_dense()(x), sparse(x))


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
def test_bfloat16_is_summed_in_float32():
    torch.manual_seed(0)
    layer = SparseLinear(300, 40, sparsity=0.5, dtype=torch.bfloat16)
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


def test_gradients_of_any_layout(way):
    torch.manual_seed(0)
    dense, flat = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(20, 10)
    sparse = masked(dense, 0.3)
    x, gradient = torch.randn(7, 4, 5, 5), torch.randn(7, 6, 5, 5)
    for laid in (gradient.to(memory_format=torch.channels_last), gradient.permute(1, 2, 3, 0).contiguous()):
        agree(sparse, dense, x, gradient=laid if laid.shape == gradient.shape else laid.permute(3, 0, 1, 2))
    agree(masked(flat, 0.3), flat, torch.randn(7, 20), gradient=torch.randn(10, 7).t())


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


def test_more_and_fewer_dimensions(way):
    layer = SparseLinear(6, 4, sparsity=0.5)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x), F.linear(x, layer.dense_weight(), layer.bias))
    torch.testing.assert_close(layer(x[0, 0]), layer(x)[0, 0])
    image = SparseConv2d(2, 3, 3)
    x = torch.randn(2, 5, 5)
    torch.testing.assert_close(image(x), image(x[None])[0])


@needs_kernels
def test_empty_batch():
    layer, x = SparseLinear(6, 4), torch.randn(0, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer(x).shape == (0, 4)
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


@needs_kernels
def test_nan_is_passed_on_to_its_own_sample_alone():
    layer, x = SparseLinear(6, 4, sparsity=0.0), torch.randn(3, 6)
    x[1, 2] = float("nan")
    assert layer(x).isnan().any(1).tolist() == [False, True, False]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, at its first jvp
def test_transforms_of_torch_func():
    layer, x = SparseLinear(6, 4, sparsity=0.5, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(layer))(x)
    torch.testing.assert_close(jacobian, layer.dense_weight().expand(3, 4, 6))
    _, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, layer.dense_weight().sum(1).expand(3, 4))


# ------------------------------------------------------------------------------------------------------- survivors


def test_dense_and_back():
    dense = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    sparse = masked(dense, 0.5)
    again = sparse.to_dense()
    assert torch.equal(again.weight, dense.weight)
    assert torch.equal(again.bias, dense.bias)
    assert sparse.sparsity == pytest.approx(1 - float((dense.weight != 0).float().mean()))


def test_state_dict_brings_its_pattern_into_any_mask():
    torch.manual_seed(0)
    first, second = SparseLinear(30, 20, sparsity=0.9), SparseLinear(30, 20, sparsity=0.5)
    x = torch.randn(4, 30)
    second(x)  # its order is known before it changes
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.mask, first.mask)
    assert torch.equal(second(x), first(x))


def test_a_wrong_pattern_is_refused():
    layer = SparseLinear(6, 4, sparsity=0.5)
    state = layer.state_dict()
    for wrong in (state["indices"] + 20, state["indices"].flip(0), state["indices"][:3], state["indices"].float()):
        with pytest.raises(UserError, match="pattern"):
            layer.load_state_dict({**state, "indices": wrong})


def test_copies_stand_alone():
    layer, x = SparseLinear(30, 20), torch.randn(4, 30)
    out = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), out)
        with torch.no_grad():
            other.weight.zero_()
        assert torch.equal(layer(x), out)


@pytest.mark.parametrize("kind", [torch.optim.Adam, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_values_and_optimizer_state_follow_the_mask(kind):
    torch.manual_seed(0)
    layer = SparseLinear(8, 5, sparsity=0.5)
    optimizer = kind(layer.parameters())
    x = torch.randn(6, 8)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()

    def spread(values):
        return torch.zeros(5 * 8).index_put((layer.indices.long(),), values).view(5, 8)

    names = [name for name, value in optimizer.state[layer.weight].items() if value.dim()]
    before = {name: spread(optimizer.state[layer.weight][name]) for name in names}
    weights, old = layer.dense_weight().detach(), layer.mask
    new = torch.rand(5, 8) < 0.5
    start = torch.full((5, 8), 0.25)
    layer.change_mask(new, optimizer, values=start)
    assert torch.equal(layer.mask, new)
    assert torch.equal(layer.dense_weight(), torch.where(old & new, weights, start * (new & ~old)))
    for name in names:
        assert torch.equal(spread(optimizer.state[layer.weight][name]), before[name] * (old & new))
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    optimizer.step()
    agree(layer, layer.to_dense(), x)


@pytest.mark.parametrize("change", ["mask", "state_dict"])
def test_a_mask_changes_while_an_old_graph_lives(change, way):
    layer, other, x = SparseLinear(30, 20, sparsity=0.5), SparseLinear(30, 20, sparsity=0.8), torch.randn(4, 30)
    loss = layer(x).square().mean()
    loss.backward()
    if change == "mask":
        layer.change_mask(other.mask)
    else:
        layer.load_state_dict(other.state_dict())
    again = layer(x).square().mean()
    again.backward()
    assert layer.weight.grad.shape == layer.weight.shape == other.weight.shape
    assert loss.isfinite()


@needs_kernels
def test_values_that_are_not_one_for_each_survivor_are_refused():
    layer, x = SparseLinear(30, 20), torch.randn(4, 30)
    with pytest.raises(UserError, match="weights survive"):
        torch.func.functional_call(layer, {"weight": torch.ones(3)}, x)
    out = layer(x)
    layer.change_mask(torch.ones(20, 30, dtype=torch.bool))
    torch.testing.assert_close(layer(x), F.linear(x, layer.dense_weight(), layer.bias))
    with pytest.raises(UserError, match="between forward and backward"):
        out.sum().backward()
    with pytest.raises(UserError, match="belong together"):
        layer.load_state_dict({"indices": layer.indices}, strict=False)


@needs_kernels
def test_views_that_are_negated_are_read_as_they_are():
    layer, z = SparseLinear(6, 4, sparsity=0.0), torch.randn(3, 6, dtype=torch.complex64).conj()
    torch.testing.assert_close(layer(z.imag), F.linear(z.imag.clone(), layer.dense_weight(), layer.bias))


def test_taps_farther_apart_than_the_image(way):
    torch.manual_seed(0)
    dense = nn.Conv2d(4, 6, 3, padding=30, dilation=30)
    agree(masked(dense, 0.3), dense, torch.randn(3, 4, 9, 9))


@needs_kernels
def test_second_derivatives_under_autocast():
    layers, x = nn.Sequential(SparseLinear(6, 5), SparseLinear(5, 4)), torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        (slope,) = torch.autograd.grad(layers(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert layers[0].weight.grad.isfinite().all()


def test_dense_gradients_are_kept_when_asked_for():
    torch.manual_seed(0)
    for sparse, x in (
        (SparseLinear(8, 5, sparsity=0.7), torch.randn(6, 8)),
        (SparseConv2d(4, 6, 3, 2, 1, groups=2, sparsity=0.7), torch.randn(6, 4, 7, 7)),
    ):
        sparse.keeps_dense_gradient = True
        dense = sparse.to_dense()
        sparse(x).square().sum().backward()
        dense(x).square().sum().backward()
        torch.testing.assert_close(sparse.dense_gradient, dense.weight.grad, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_work_grows_with_the_survivors_not_with_the_layer():
    layer = SparseLinear(1000, 1000, sparsity=0.99)
    assert layer.weight.numel() == 10_000
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(4, 1000, requires_grad=True))
    assert sum(t.numel() for t in saved) == 10_000 + 4 * 1000


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SparseLinear(6, 4)(torch.randn(3, 5)), "last dimension must be 6"),
        (lambda: SparseLinear(6, 4)(torch.randn(3, 6).double()), "convert one of them"),
        (lambda: SparseLinear(6, 4, sparsity=1.0), "below 1"),
        (lambda: SparseLinear(6, 4, mask=torch.ones(6, 4, dtype=torch.bool)), "bools of shape"),
        (lambda: SparseLinear(6, 4).change_mask(torch.ones(4, 6)), "bools of shape"),
        (lambda: SparseLinear(0, 4), "in_features"),
        (lambda: SparseConv2d(3, 4, 3)(torch.randn(2, 4, 5, 5)), "batch, 3"),
        (lambda: SparseConv2d(3, 4, 3)(torch.randn(2, 3, 2, 5)), "smaller than the kernel"),
        (lambda: SparseConv2d(3, 4, 3, groups=2), "groups"),
        (lambda: SparseConv2d(3, 4, 3, padding=-1), "padding must be at least 0"),
        (lambda: SparseConv2d(3, 4, 3, stride=0), "stride must be at least 1"),
        (lambda: SparseConv2d(3, 4, 3, dilation=0), "dilation must be at least 1"),
        (lambda: SparseConv2d(512, 512, 3, dilation=1024), "2\\^31"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(make, match):
    with pytest.raises(UserError, match=match):
        make()


def test_other_devices_and_types_take_the_way_of_torch():
    half, meta = {"dtype": torch.float16}, {"device": "meta"}
    assert not function.has_kernels(torch.randn(2, 3, **half), torch.randn(2, **half), torch.float16)
    assert not function.has_kernels(torch.randn(2, 3), torch.randn(2), torch.float16)
    assert not function.has_kernels(torch.randn(2, 3, **meta), torch.randn(2, **meta), torch.float32)
