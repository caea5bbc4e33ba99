"""Sparse layers against dense ones with zeros in their weights, in float64."""

import copy
import random
import warnings

import pytest
import torch
from sparse_pairs import LEVELS, agree, masked, needs_kernels
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.sparse import SparseConv2d, SparseLinear, limit_instruction_set

pytestmark = pytest.mark.usefixtures("always_kernels")


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


def test_an_odd_padding_has_its_larger_half_behind_as_torchs():
    torch.manual_seed(0)
    dense = nn.Conv2d(2, 3, (2, 4), padding="same")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")  # torch copies the input there
        agree(masked(dense, 0.5), dense, torch.randn(2, 2, 6, 7))


def test_gradients_of_any_layout(way):
    torch.manual_seed(0)
    dense, flat = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(20, 10)
    sparse = masked(dense, 0.3)
    x, gradient = torch.randn(7, 4, 5, 5), torch.randn(7, 6, 5, 5)
    for laid in (gradient.to(memory_format=torch.channels_last), gradient.permute(1, 2, 3, 0).contiguous()):
        agree(sparse, dense, x, gradient=laid if laid.shape == gradient.shape else laid.permute(3, 0, 1, 2))
    agree(masked(flat, 0.3), flat, torch.randn(7, 20), gradient=torch.randn(10, 7).t())


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


@needs_kernels
def test_views_that_are_negated_are_read_as_they_are():
    layer, z = SparseLinear(6, 4, sparsity=0.0), torch.randn(3, 6, dtype=torch.complex64).conj()
    torch.testing.assert_close(layer(z.imag), F.linear(z.imag.clone(), layer.dense_weight(), layer.bias))


def test_taps_farther_apart_than_the_image(way):
    torch.manual_seed(0)
    dense = nn.Conv2d(4, 6, 3, padding=30, dilation=30)
    agree(masked(dense, 0.3), dense, torch.randn(3, 4, 9, 9))


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
