"""Which weights of a sparse layer survive: its pattern in copies, state dicts, optimizers and changes of the mask."""

import copy
import pickle

import pytest
import torch
from sparse_pairs import agree, masked, needs_kernels
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.sparse import SparseLinear

pytestmark = pytest.mark.usefixtures("always_kernels")


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
