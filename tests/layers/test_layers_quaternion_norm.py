"""Normalisation of quaternions, against its formulas written out and against what it must leave unchanged."""

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.layers.quaternion import (
    QuaternionBatchNorm1d,
    QuaternionBatchNorm2d,
    QuaternionBatchNorm3d,
    QuaternionLayerNorm,
    algebra,
)

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def make(kind=QuaternionBatchNorm2d, **options):
    torch.manual_seed(0)
    layer = kind(8, **options).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    places = {QuaternionBatchNorm1d: (), QuaternionBatchNorm2d: (3, 4), QuaternionBatchNorm3d: (2, 3, 2)}[kind]
    scales = 1 + torch.arange(8.0, dtype=torch.float64).view(1, -1, *[1] * len(places))
    x = torch.randn(6, 8, *places, dtype=torch.float64) * scales + scales
    return layer, x.requires_grad_()


def by_hand(layer, x):
    """γ (x - μ) / √(mean of the four components' variances + ε) + β, quaternion by quaternion."""
    out = torch.zeros_like(x)
    for n in range(2):
        columns = [n, 2 + n, 4 + n, 6 + n]
        q = x[:, columns]
        dims = [0, *range(2, x.ndim)]
        centred = q - q.mean(dims, keepdim=True)
        scale = (centred.square().mean() + layer.eps).sqrt()
        shape = (1, -1, *[1] * (x.ndim - 2))
        out[:, columns] = layer.weight[n] * centred / scale + layer.bias[columns].view(shape)
    return out


@pytest.mark.parametrize("kind", [QuaternionBatchNorm1d, QuaternionBatchNorm2d, QuaternionBatchNorm3d])
def test_by_modulus_equals_the_formula_forward_and_backward(kind):
    layer, x = make(kind)
    y, expected = layer(x), by_hand(layer, x)
    torch.testing.assert_close(y, expected, **EXACT)
    given, g = [x, *layer.parameters()], torch.randn_like(y)
    for found, wanted in zip(torch.autograd.grad(y, given, g), torch.autograd.grad(expected, given, g), strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("by", ["modulus", "whitening"])
def test_gradcheck(by):
    layer, x = make(QuaternionBatchNorm1d, by=by)
    names = [name for name, _ in layer.named_parameters()]
    buffers = {name: b.clone() for name, b in layer.named_buffers()}

    def run(x, *p):
        fresh = {name: b.clone() for name, b in buffers.items()}
        return torch.func.functional_call(layer, dict(zip(names, p, strict=True)) | fresh, x)

    x = x.detach()[:, :8].repeat(2, 1) + torch.randn(12, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *layer.parameters()), fast_mode=True)


def test_whitening_leaves_uncorrelated_components_of_variance_one():
    layer, x = make(by="whitening", eps=0.0)
    layer.reset_parameters()
    q = layer(x).unflatten(1, (4, 2)).flatten(3)
    torch.testing.assert_close(q.mean((0, 3)), torch.zeros(4, 2, dtype=torch.float64), **EXACT)
    covariance = torch.einsum("bpnt,bqnt->npq", q, q) / (q.shape[0] * q.shape[3])
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.float64).expand(2, 4, 4), **EXACT)


@pytest.mark.parametrize("by", ["modulus", "whitening"])
def test_running_statistics_are_those_of_batches_seen(by):
    layer, x = make(by=by, momentum=1.0)
    trained = layer(x)
    count = x.numel() / 8
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)).detach(), **EXACT)
    q = x.detach().unflatten(1, (4, 2)).flatten(3)
    centred = q - q.mean((0, 3), keepdim=True)
    if by == "modulus":
        wanted = centred.square().mean((0, 1, 3))
    else:
        wanted = torch.einsum("bpnt,bqnt->npq", centred, centred) / count
    torch.testing.assert_close(layer.running_covariance, wanted * count / (count - 1), **EXACT)
    layer.running_covariance *= (count - 1) / count
    torch.testing.assert_close(layer.eval()(x), trained, **EXACT)
    layer, x = make(by=by, momentum=0.25)
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.25 * x.mean((0, 2, 3)).detach(), **EXACT)


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_a_common_rotation_passes_through(kind):
    """Means and moduli turn with the quaternions, so that the normalised ones do."""
    torch.manual_seed(0)
    x, mu = torch.randn(5, 12, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    layer = (QuaternionBatchNorm1d if kind == "batch" else QuaternionLayerNorm)(12).double()
    turn = torch.cat([part.expand(3) for part in mu])
    torch.testing.assert_close(layer(algebra.rotate(x, turn)), algebra.rotate(layer(x), turn), **EXACT)


def test_layer_norm_equals_the_formula():
    torch.manual_seed(0)
    layer, x = QuaternionLayerNorm(8).double(), torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    for sample, y in zip(x.flatten(0, 1), layer(x).flatten(0, 1), strict=True):
        q = torch.stack(sample.chunk(4), 1)
        centred = q - q.mean(0)
        scaled = centred / (centred.square().sum(1).mean() / 4 + layer.eps).sqrt() * layer.weight[:, None]
        torch.testing.assert_close(y, torch.cat(scaled.unbind(1)) + layer.bias, **EXACT)
    assert torch.autograd.gradcheck(layer, (x,))


def test_bfloat16_and_channels_last_pass_through():
    torch.manual_seed(0)
    layer = QuaternionBatchNorm2d(8)
    x = torch.randn(16, 8, 4, 4).to(memory_format=torch.channels_last)
    short, long = x.bfloat16().requires_grad_(), x.clone().requires_grad_()
    y = layer(short)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    g = torch.randn(y.shape)
    y.backward(g.bfloat16())
    layer(long).backward(g)
    assert (short.grad.float() - long.grad).norm() < 0.02 * long.grad.norm()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: QuaternionBatchNorm2d(6), "multiple of 4"),
        (lambda: QuaternionBatchNorm2d(8, by="length"), "by must be"),
        (lambda: QuaternionBatchNorm2d(8, momentum=None), "momentum"),
        (lambda: QuaternionBatchNorm2d(8)(torch.zeros(2, 8)), "takes 4 dimensions"),
        (lambda: QuaternionBatchNorm1d(8)(torch.zeros(2, 4)), "takes 8 numbers"),
        (lambda: QuaternionBatchNorm1d(8)(torch.zeros(1, 8)), "more than one value"),
        (lambda: QuaternionLayerNorm(6), "multiple of 4"),
        (lambda: QuaternionLayerNorm(8)(torch.zeros(2, 4)), "takes 8 numbers"),
    ],
)
def test_bad_input_is_told(call, says):
    with pytest.raises(UserError, match=says):
        call()
