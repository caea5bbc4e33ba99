"""A layer's products with samples and with classes, against the layer itself on every sample beside its class."""

import pytest
import torch
from torch.nn import functional as F

from beyondprop.rules.local.linear_of_parts import linear_of_parts

N, M, UNITS = 5, 3, 4


def parts(dtype=torch.float64):
    shapes = (6, N), (2, M), (UNITS, N + M)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def side_by_side(samples, classes, weight, classes_first):
    """The same, by one product of all pairs' whole inputs; without the pairs, (batch, classes, units)."""
    pair = samples[:, None].expand(-1, len(classes), -1), classes[None].expand(len(samples), -1, -1)
    return F.linear(torch.cat(pair[::-1] if classes_first else pair, dim=2), weight)


@pytest.mark.parametrize("classes_first", [False, True])
def test_sums_and_their_gradients_are_those_of_whole_inputs(seeded, classes_first):
    tensors = parts()
    by_sample, by_class = linear_of_parts(*tensors, classes_first=classes_first)
    ours, whole = by_sample[:, None] + by_class, side_by_side(*tensors, classes_first)
    torch.testing.assert_close(ours, whole)
    direction = torch.randn_like(whole)
    found = torch.autograd.grad(ours, tensors, direction)
    torch.testing.assert_close(found, torch.autograd.grad(whole, tensors, direction))


@pytest.mark.parametrize("classes_first", [False, True])
def test_gradients_are_finite_differences(seeded, classes_first):
    assert torch.autograd.gradcheck(lambda *t: linear_of_parts(*t, classes_first=classes_first), parts())


@pytest.mark.parametrize("trained", range(3))
def test_only_what_wants_a_gradient_has_one(seeded, trained):
    tensors = [t.detach().requires_grad_(k == trained) for k, t in enumerate(parts())]
    sum(made.square().sum() for made in linear_of_parts(*tensors)).backward()
    assert [t.grad is not None for t in tensors] == [k == trained for k in range(3)]


def test_products_that_are_not_used_count_as_zero(seeded):
    samples, classes, weight = parts()
    linear_of_parts(samples, classes, weight)[0].sum().backward()
    assert not weight.grad[:, N:].any()
    torch.testing.assert_close(weight.grad[:, :N], samples.sum(dim=0).expand(UNITS, -1))


def test_autocast_has_its_precision_and_gradients_the_weight_s(seeded):
    tensors = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        made = linear_of_parts(*tensors)
        assert {m.dtype for m in made} == {torch.bfloat16}
        found = torch.autograd.grad(sum(m.float().sum() for m in made), tensors)
    assert {g.dtype for g in found} == {torch.float32}
    exact = torch.autograd.grad(sum(m.sum() for m in linear_of_parts(*tensors)), tensors)
    for ours, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-2, atol=5e-2)
