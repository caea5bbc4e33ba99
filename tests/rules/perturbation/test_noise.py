"""Noise from a table: its moments, its layout, its seed."""

import pytest
import torch

from beyondprop.rules.perturbation.noise import draw_noise


def test_it_is_standard_normal():
    torch.manual_seed(0)
    drawn = draw_noise(torch.empty(400_001, dtype=torch.float64))
    bound = 5 / len(drawn) ** 0.5
    assert drawn.mean().abs() < bound
    assert (drawn.square().mean() - 1).abs() < 2 * bound
    assert (drawn.pow(4).mean() - 3).abs() < 10 * bound
    assert ((drawn < 1).double().mean() - 0.841345).abs() < bound
    assert (drawn[:-1] * drawn[1:]).mean().abs() < bound
    assert (drawn[:-4] * drawn[4:]).mean().abs() < bound  # four numbers share a word


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_layout_and_dtype_are_those_asked_for(dtype):
    like = torch.empty(3, 5, 7, dtype=dtype).mT
    drawn = draw_noise(like)
    assert (drawn.shape, drawn.stride(), drawn.dtype) == (like.shape, like.stride(), dtype)
    assert drawn.float().std() > 0.5
    assert draw_noise(torch.empty(0)).shape == (0,)


def test_it_comes_from_torchs_generator_or_from_one_that_is_given():
    like = torch.empty(9)
    torch.manual_seed(1)
    first, second = draw_noise(like), draw_noise(like)
    torch.manual_seed(1)
    assert torch.equal(draw_noise(like), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    given = [draw_noise(like, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*given)
    assert torch.equal(torch.get_rng_state(), state)
