"""The fast dropout against the definition of dropout and against torch's."""

import math

import pytest
import torch
from torch import nn

from beyondprop.layers.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_drops_with_probability_p_and_keeps_the_mean(p):
    torch.manual_seed(0)
    count = 400_000
    y = Dropout(p)(torch.ones(count))
    kept = (y != 0).double().mean().item()
    assert kept == pytest.approx(1 - p, abs=5 * math.sqrt(p * (1 - p) / count))
    assert y[y != 0].unique().numel() == 1
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)


def test_decisions_are_independent_of_their_neighbours():
    """The four decisions made of one random number are uncorrelated, with each other and with the next number's."""
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8):
        assert abs((kept[:-lag] * kept[lag:]).mean().item()) < 5 * 0.25 / math.sqrt(len(kept))
    for place in range(4):  # each of the four has the right probability on its own
        assert abs(kept[place::4].mean().item()) < 5 * 0.5 / math.sqrt(100_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradient_passes_where_the_value_passed(dtype, memory_format):
    x = (torch.rand(3, 5, 4, 7, dtype=dtype) + 0.5).to(memory_format=memory_format).requires_grad_()
    y = Dropout(0.3)(x)
    y.sum().backward()
    scale = (y.detach() / x.detach()).max()
    torch.testing.assert_close(x.grad, torch.where(y.detach() == 0, 0, scale).to(dtype), rtol=1e-2, atol=0)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory_format)


def test_is_reproducible_and_moves_the_global_generator():
    dropout, x = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_extremes_are_torchs(p):
    assert torch.equal(Dropout(p)(torch.ones(10)), nn.Dropout(p)(torch.ones(10)))


def test_evaluation_changes_nothing():
    x = torch.randn(10)
    assert torch.equal(Dropout(0.5).eval()(x), x)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_any_number_of_elements(count):
    assert Dropout(0.5)(torch.ones(count)).shape == (count,)


def test_strided_input_is_accepted():
    assert Dropout(0.5)(torch.ones(6, 8)[:, ::2]).shape == (6, 4)
