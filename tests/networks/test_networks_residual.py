"""The residual encoder: any size of image, a batch of one, its layers against a slow reading of them, its cost."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from beyondprop.networks.residual import ResidualBlock, residual_encoder


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_image_in_either_mode_and_precision(shape, batch):
    torch.manual_seed(0)
    encoder = residual_encoder(shape[0], 4, 2)
    x = torch.randn(batch, *shape).to(memory_format=torch.channels_last)
    for training in (True, False):
        encoder.train(training)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = encoder(x)
        assert features.shape == (batch, 16)
        assert features.dtype == torch.bfloat16
        assert features.isfinite().all()
        features.float().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def norm(module, h):
    """Batch norm in training, written out."""
    mean, var = h.mean(dim=(0, 2, 3), keepdim=True), h.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    return (h - mean) / (var + 1e-5).sqrt() * module.weight[:, None, None] + module.bias[:, None, None]


def test_the_formula():
    """Every stage written out from its convolutions and norms, after the branches' last norms have left zero."""
    torch.manual_seed(0)
    encoder = residual_encoder(3, 2).double()
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in norms:
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    convolutions = iter([m for m in encoder.modules() if isinstance(m, nn.Conv2d)])
    x = torch.randn(4, 3, 16, 16).double()

    def convolved(h):
        return F.conv2d(h, next(convolutions).weight, padding=1)

    h, left = x, iter(norms)
    for channels in (2, 4, 8):
        h = F.max_pool2d(convolved(h), 2)
        h = norm(next(left), h).relu()
        assert h.shape[1] == channels
        branch = norm(next(left), convolved(h)).relu()
        h = (h + norm(next(left), convolved(branch))).relu()
    torch.testing.assert_close(encoder(x), h.amax(dim=(2, 3)))
    assert next(convolutions, None) is None


def test_residual_branches_start_at_zero_and_leave_it():
    torch.manual_seed(0)
    block = ResidualBlock(4)
    h = torch.rand(2, 4, 6, 6)
    torch.testing.assert_close(block(h), h)
    block(h).square().sum().backward()
    assert any(p.grad.abs().max() > 0 for p in block.change.parameters())


def test_one_pixel_alone_moves_no_statistics():
    encoder = residual_encoder(1, 2)
    last = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    encoder(torch.randn(1, 1, 8, 8))
    assert torch.equal(last.running_mean, torch.zeros(8))
    encoder(torch.randn(2, 1, 8, 8))
    assert not torch.equal(last.running_var, torch.ones(8))


@pytest.mark.parametrize(("width", "parameters", "gflop"), [(64, 1.92, 0.193), (32, 0.48, 0.0493)])
def test_size_and_cost_on_cifar(width, parameters, gflop):
    """Counted by hand: 9 weights a pair of channels, twice that many operations a pixel."""
    encoder = residual_encoder(3, width).eval()
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(parameters, abs=0.006)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        encoder(torch.randn(1, 3, 32, 32))
    w = width
    pairs = [(3 * w, 32), (w * w, 16), (w * w, 16), (2 * w * w, 16), (4 * w * w, 8), (4 * w * w, 8)]
    pairs += [(8 * w * w, 8), (16 * w * w, 4), (16 * w * w, 4)]
    assert counter.get_total_flops() == sum(2 * 9 * channels * side**2 for channels, side in pairs)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.02)
