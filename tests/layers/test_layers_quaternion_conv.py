"""Quaternion convolutions and their transposes, against real convolutions of single components."""

import pytest
import quaternion_oracle as oracle
import torch

from beyondprop.errors import UserError
from beyondprop.layers.quaternion import (
    QuaternionConv1d,
    QuaternionConv2d,
    QuaternionConv3d,
    QuaternionConvTranspose1d,
    QuaternionConvTranspose2d,
    QuaternionConvTranspose3d,
)
from beyondprop.layers.quaternion.products import wide_enough
from beyondprop.measure import peak_saved_bytes

PLACES = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}
KINDS = (
    QuaternionConv1d,
    QuaternionConv2d,
    QuaternionConv3d,
    QuaternionConvTranspose1d,
    QuaternionConvTranspose2d,
    QuaternionConvTranspose3d,
)
GEOMETRIES = ({}, {"stride": 2, "padding": 1, "dilation": 2, "groups": 2})
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def make(kind, **options):
    torch.manual_seed(0)
    layer = kind(16, 8, 2, **options).double()
    torch.nn.init.normal_(layer.bias)
    return layer, torch.randn(2, 16, *PLACES[kind.dims], dtype=torch.float64, requires_grad=True)


def real(layer):
    """The real convolution of one component."""

    def convolve(x, weight):
        sizes = [list(part) for part in (layer.stride, layer.padding, layer.dilation)]
        return torch.convolution(x, weight, None, *sizes, layer.transposed, list(layer.output_padding), layer.groups)

    return convolve


def compare(layer, x):
    y, expected = layer(x), oracle.conv(x, layer, real(layer))
    torch.testing.assert_close(y, expected, **EXACT)
    given, g = [x, *layer.parameters()], torch.randn_like(y)
    for found, wanted in zip(torch.autograd.grad(y, given, g), torch.autograd.grad(expected, given, g), strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=("plain", "strided"))
@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_convolutions_of_components_forward_and_backward(kind, side, geometry):
    layer, x = make(kind, side=side, products=8, **geometry)
    compare(layer, x)
    layer.memory_saving = True
    compare(layer, x)
    if side != "both":
        layer.products = 16
        compare(layer, x)
        layer.memory_saving = False
        compare(layer, x)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(16, 1), (16, 2), (128, 1)])  # the last: eight products in float32
@pytest.mark.parametrize("kind", [QuaternionConv2d, QuaternionConvTranspose2d])
def test_memory_saving_holds_the_input_alone_whatever_is_chosen(kind, channels, groups, bf16):
    layer = kind(channels, channels, 3, groups=groups, memory_saving=True)
    x = torch.randn(2, channels, 5, 4, requires_grad=True)
    assert wide_enough(channels, x, 128, None) == (channels == 128)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = layer(x)
        y.sum().backward()

    held = x.numel() * (2 if bf16 else 4)
    assert peak_saved_bytes(step, layer) == held
    layer.memory_saving = False
    assert peak_saved_bytes(step, layer) > held


def test_output_padding_and_uneven_kernels():
    layer, x = make(QuaternionConvTranspose2d, stride=(2, 3), output_padding=(1, 2), products=8)
    compare(layer, x)
    torch.manual_seed(0)
    layer = QuaternionConv2d(16, 8, (3, 2), padding=(1, 0), dilation=(1, 2), products=8).double()
    compare(layer, x)


@pytest.mark.parametrize("kind", [QuaternionConv2d, QuaternionConvTranspose1d])
@pytest.mark.parametrize(("memory_saving", "products"), [(False, 8), (True, 8), (True, 16)])
def test_gradcheck(kind, memory_saving, products):
    layer, x = make(kind, groups=2, products=products, memory_saving=memory_saving)
    x = x[:1, ..., :3].detach().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *p):
        return torch.func.functional_call(layer, dict(zip(names, p, strict=True)), x)

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("products", [8, 16])
def test_channels_last_is_kept_and_gives_the_same(products):
    torch.manual_seed(0)
    layer = QuaternionConv2d(16, 8, 3, padding=1, products=products)
    x = torch.randn(2, 16, 6, 6)
    ys, grads = [], []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x.clone(memory_format=memory_format).requires_grad_()
        y = layer(given)
        assert y.is_contiguous(memory_format=memory_format)
        y.square().sum().backward()
        ys.append(y.detach())
        grads.append(given.grad)
    torch.testing.assert_close(*ys)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("products", [8, 16])
def test_bfloat16_under_autocast(products):
    torch.manual_seed(0)
    layer, x = QuaternionConv2d(32, 32, 3, padding=1, products=products), torch.randn(4, 32, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    y.float().square().mean().backward()
    short = layer.weight.grad.clone()
    layer.zero_grad()
    layer(x).square().mean().backward()
    assert short.dtype == torch.float32
    assert (short - layer.weight.grad).norm() < 0.02 * layer.weight.grad.norm()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_pad_as_torch_does(mode):
    torch.manual_seed(0)
    layer = QuaternionConv2d(8, 4, 3, padding=1, padding_mode=mode)
    x = torch.randn(1, 8, 5, 6)
    inner = QuaternionConv2d(8, 4, 3)
    inner.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), inner(torch.nn.functional.pad(x, (1, 1, 1, 1), mode=mode)))


def test_paddings_by_name():
    assert QuaternionConv1d(4, 4, 5, padding="same", dilation=2)(torch.zeros(1, 4, 9)).shape == (1, 4, 9)
    assert QuaternionConv1d(4, 4, 5, padding="valid")(torch.zeros(1, 4, 9)).shape == (1, 4, 5)


def test_initial_weights_keep_the_scale():
    torch.manual_seed(0)
    for groups in (1, 4):
        layer = QuaternionConv2d(128, 64, 3, groups=groups)
        assert float(layer(torch.randn(4, 128, 12, 12)).detach().var()) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: QuaternionConv2d(3, 8, 3), "in_channels .* multiple of 4, not 3"),
        (lambda: QuaternionConv2d(8, 8, 3, groups=4), "4 groups do not divide 2 quaternions"),
        (lambda: QuaternionConv2d(8, 8, (3, 3, 3)), "kernel_size must be one number or 2"),
        (lambda: QuaternionConv2d(8, 8, 3, stride=0), "stride"),
        (lambda: QuaternionConv2d(8, 8, 2, padding="same"), "padding must be"),
        (lambda: QuaternionConv2d(8, 8, 3, padding_mode="mirror"), "padding_mode"),
        (lambda: QuaternionConv2d(8, 8, 3)(torch.zeros(8, 6, 6)), "takes 4 dimensions"),
        (lambda: QuaternionConv2d(8, 8, 3)(torch.zeros(1, 12, 6, 6)), "takes 8 numbers"),
    ],
)
def test_bad_input_is_told(call, says):
    with pytest.raises(UserError, match=says):
        call()
