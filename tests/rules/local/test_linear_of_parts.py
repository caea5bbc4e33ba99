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
def test_sums_and_their_gradients_are_those_of_whole_inputs(classes_first):
    tensors = parts()
    by_sample, by_class = linear_of_parts(*tensors, classes_first=classes_first)
    ours, whole = by_sample[:, None] + by_class, side_by_side(*tensors, classes_first)
    torch.testing.assert_close(ours, whole)
    direction = torch.randn_like(whole)
    found = torch.autograd.grad(ours, tensors, direction)
    torch.testing.assert_close(found, torch.autograd.grad(whole, tensors, direction))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, at its first jvp
@pytest.mark.parametrize("classes_first", [False, True])
def test_gradients_are_finite_differences(classes_first):
    def products(*tensors):
        return linear_of_parts(*tensors, classes_first=classes_first)

    assert torch.autograd.gradcheck(products, parts(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(products, parts())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, at its first jvp
def test_it_can_be_transformed():
    samples, classes, weight = (t.detach() for t in parts())
    torch.testing.assert_close(
        torch.vmap(lambda w: linear_of_parts(samples, classes, w)[0])(torch.stack([weight, 2 * weight])),
        torch.stack([samples @ weight[:, :N].t(), 2 * samples @ weight[:, :N].t()]),
    )
    found = torch.func.jacrev(lambda w: linear_of_parts(samples, classes, w)[1])(weight)
    torch.testing.assert_close(found, torch.func.jacfwd(lambda w: linear_of_parts(samples, classes, w)[1])(weight))
    by_sample = linear_of_parts(samples, classes, weight.requires_grad_())[0]
    rows = torch.eye(by_sample.numel()).double().view(-1, *by_sample.shape)
    (together,) = torch.autograd.grad(by_sample, weight, rows, retain_graph=True, is_grads_batched=True)
    one_by_one = [torch.autograd.grad(by_sample, weight, row, retain_graph=True)[0] for row in rows]
    torch.testing.assert_close(together, torch.stack(one_by_one))


def test_autocast_leaves_float64_alone():
    tensors = parts()
    with torch.autocast("cpu", torch.bfloat16):
        assert {m.dtype for m in linear_of_parts(*tensors)} == {torch.float64}


@pytest.mark.parametrize("trained", range(3))
def test_only_what_wants_a_gradient_has_one(trained):
    tensors = [t.detach().requires_grad_(k == trained) for k, t in enumerate(parts())]
    sum(made.square().sum() for made in linear_of_parts(*tensors)).backward()
    assert [t.grad is not None for t in tensors] == [k == trained for k in range(3)]


def test_products_that_are_not_used_count_as_zero():
    samples, classes, weight = parts()
    linear_of_parts(samples, classes, weight)[0].sum().backward()
    assert not weight.grad[:, N:].any()
    torch.testing.assert_close(weight.grad[:, :N], samples.sum(dim=0).expand(UNITS, -1))


def test_autocast_has_its_precision_and_gradients_the_weight_s():
    tensors = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        made = linear_of_parts(*tensors)
        assert {m.dtype for m in made} == {torch.bfloat16}
        found = torch.autograd.grad(sum(m.float().sum() for m in made), tensors)
    assert {g.dtype for g in found} == {torch.float32}
    exact = torch.autograd.grad(sum(m.sum() for m in linear_of_parts(*tensors)), tensors)
    for ours, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-2, atol=5e-2)
