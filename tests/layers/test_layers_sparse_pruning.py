"""Which weights go, and which layers become sparse."""

import math
import sys

import pytest
import torch
from torch import nn

from beyondprop.errors import UserError
from beyondprop.layers.sparse import (
    DynamicSparseTraining,
    GradualPruning,
    SparseConv2d,
    SparseLinear,
    prune,
    pruning,
    sparsify,
    to_sparse,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def weights(layers):
    """The dense weights of a network's layers, flat."""
    return [
        (m.dense_weight() if hasattr(m, "dense_weight") else m.weight).detach().flatten()
        for m in layers.modules()
        if isinstance(m, nn.Linear | nn.Conv2d | SparseLinear | SparseConv2d)
    ]


@pytest.fixture(params=["dense", "sparse"])
def kind(request):
    return (lambda n: n) if request.param == "dense" else to_sparse


def test_uniform_pruning_removes_the_smallest_of_each_layer(kind):
    full = weights(network())
    for before, after in zip(full, weights(prune(kind(network()), 0.7)), strict=True):
        kept = round(0.3 * len(before))
        assert int((after != 0).sum()) == kept
        assert torch.equal(after[after != 0], before[after != 0])
        assert before[after != 0].abs().min() >= before[after == 0].abs().max()


def test_global_pruning_removes_the_smallest_of_all_layers(kind):
    before, after = torch.cat(weights(network())), torch.cat(weights(prune(kind(network()), 0.7, "global")))
    assert int((after != 0).sum()) == round(0.3 * len(before))
    assert before[after != 0].abs().min() >= before[after == 0].abs().max()


def test_n_of_m_keeps_the_largest_of_each_group(kind):
    pruned = prune(kind(network()), how="2:4", skip=["0"])
    full, found = weights(network()), weights(pruned)
    assert torch.equal(found[0], full[0])
    for before, after in zip(full[1:], found[1:], strict=True):
        groups, kept = before.view(-1, 4), after.view(-1, 4)
        assert ((kept != 0).sum(1) == 2).all()
        torch.testing.assert_close(kept.abs().sum(1), groups.abs().sort(1).values[:, 2:].sum(1))


def test_pruning_further_never_brings_weights_back():
    sparse = prune(to_sparse(network()), 0.8)
    masks = [m.mask for m in sparse.modules() if isinstance(m, SparseLinear)]
    prune(sparse, 0.9)
    for before, layer in zip(masks, [m for m in sparse.modules() if isinstance(m, SparseLinear)], strict=True):
        assert not (layer.mask & ~before).any()
        assert layer.sparsity == pytest.approx(0.9, abs=0.01)


def test_a_network_made_sparse_computes_the_same():
    dense, x = prune(network(), 0.5), torch.randn(3, 1, 4, 4)
    expected = dense(x)
    torch.testing.assert_close(to_sparse(dense)(x), expected)
    assert isinstance(to_sparse(nn.Linear(3, 2)), SparseLinear)


def test_gradual_pruning_follows_its_cubic_schedule(monkeypatch):
    calls = []
    monkeypatch.setattr(pruning, "prune", lambda *given, **named: calls.append(step) or prune(*given, **named))
    sparse = to_sparse(network())
    optimizer = torch.optim.Adam(sparse.parameters(), 1e-2)
    schedule = GradualPruning(sparse, 0.9, begin=2, end=22, every=5)
    x, seen = torch.randn(6, 1, 4, 4), {}
    for step in range(1, 30):
        optimizer.zero_grad()
        sparse(x).square().sum().backward()
        optimizer.step()
        schedule.after_step(step, optimizer)
        seen[step] = sparse[3].sparsity
    for step in (2, 7, 12, 17, 22):
        assert seen[step] == pytest.approx(0.9 - 0.9 * (1 - (step - 2) / 20) ** 3, abs=1e-3)
    assert calls == [2, 7, 12, 17, 22]
    assert seen[1] == 0
    assert seen[6] == seen[2]
    assert seen[29] == seen[22] == pytest.approx(0.9, abs=1e-3)
    assert optimizer.state[sparse[3].weight]["exp_avg"].shape == sparse[3].weight.shape


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_exchange_removes_the_smallest_and_keeps_the_number(growth):
    torch.manual_seed(0)
    sparse = nn.Sequential(SparseLinear(20, 30, sparsity=0.8), nn.Tanh(), SparseLinear(30, 5, sparsity=0.6))
    exchange = DynamicSparseTraining(sparse, end=100, every=10, fraction=0.4, growth=growth)
    optimizer = torch.optim.SGD(sparse.parameters(), 0.0, momentum=0.9)
    dense, x = sparse[0].to_dense(), torch.randn(8, 20)
    for step in range(1, 11):
        before, values = sparse[0].mask, sparse[0].dense_weight().detach()
        exchange.before_step(step, optimizer)
        optimizer.zero_grad()
        sparse(x).square().sum().backward()
        if step == 10:
            sparse[2](torch.tanh(dense(x))).square().sum().backward()
        optimizer.step()
        exchange.after_step(step, optimizer)
        if step < 10:
            assert torch.equal(sparse[0].mask, before)
    after = sparse[0].mask
    count = round(0.2 * (1 + math.cos(math.pi / 10)) * int(before.sum()))
    gone, come = before & ~after, after & ~before
    assert int(gone.sum()) == int(come.sum()) == count
    assert values[gone].abs().max() <= values[before & after].abs().min()
    assert (sparse[0].dense_weight()[come] == 0).all()
    if growth == "gradient":
        slope = dense.weight.grad.abs()
        assert slope[come].min() >= slope[~before & ~come].max() - 1e-5
    assert sparse[0].dense_gradient is None


def test_sparsify_keeps_what_is_faster_and_changes_nothing_else():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.BatchNorm1d(512), nn.Linear(512, 4))
    prune(dense, 0.98, skip=["4"])
    x = torch.randn(256, 512)
    statistics = dense[3].running_mean.clone()
    found = sparsify(dense, x)
    assert [one.name for one in found.layers] == ["0", "2"]
    assert all(one.sparsity == pytest.approx(0.98, abs=1e-3) for one in found.layers)
    assert type(dense[0]) is nn.Linear
    assert torch.equal(dense[3].running_mean, statistics)
    torch.testing.assert_close(found.network(x), dense(x), rtol=1e-4, atol=1e-4)
    for one in found.layers:
        layer = found.network.get_submodule(one.name)
        assert isinstance(layer, SparseLinear)  # either way, its zeros stay
        assert (layer.kernels_from == 0) == (one.kept == "sparse") == (sum(one.sparse_ms) < sum(one.dense_ms))
    table = str(found)
    assert "98.0%" in table
    assert len(table.splitlines()) == 4


def test_sparsify_names_layers_that_the_example_does_not_pass():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.used(x)

    found = sparsify(prune(Half(), 0.9), torch.randn(4, 16))
    assert [one.name for one in found.layers] == ["used"]
    assert found.unused == ("unused",)
    assert type(found.network.unused) is nn.Linear
    assert "unused: not timed" in str(found)


def test_sparsify_judges_by_the_dense_form_that_would_stay(monkeypatch):
    """The plain layer is the fastest of all here, and cannot be kept: its zeros would be trained."""
    times = [(0.1, 0.1), (2.0, 2.0), (1.0, 1.0)]
    monkeypatch.setattr(sys.modules[sparsify.__module__], "_times", lambda *_args, **_named: times)
    found = sparsify(prune(nn.Linear(16, 16), 0.9), torch.randn(4, 16))
    assert found.layers[0].kept == "sparse"
    assert found.layers[0].plain_ms == (0.1, 0.1)


def test_sparsify_times_sparse_layers_too_and_training_keeps_zeros():
    torch.manual_seed(0)
    sparse = prune(to_sparse(network()), 0.9)
    x = torch.randn(6, 1, 4, 4)
    found = sparsify(sparse, x)
    assert [one.name for one in found.layers] == ["0", "3", "5"]
    before = [layer.mask for layer in found.network.modules() if isinstance(layer, SparseLinear | SparseConv2d)]
    optimizer = torch.optim.Adam(found.network.parameters(), 0.1)
    found.network(x).square().sum().backward()
    optimizer.step()
    after = [weight != 0 for weight in weights(found.network)]
    for mask, moved in zip(before, after, strict=True):
        assert not (moved & ~mask.flatten()).any()


def test_activations_stay_batch_last_between_sparse_layers():
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 144, 64))
    found = sparsify(prune(wide, 0.99), torch.randn(16, 64, 16, 16))
    kept = [one.kept == "sparse" for one in found.layers]
    assert found.network[0].batch_last == (kept[0] and kept[1])
    assert not found.network[2].batch_last
    x = torch.randn(16, 64, 16, 16)
    torch.testing.assert_close(found.network(x), wide(x), rtol=1e-4, atol=1e-4)


def test_sparsify_leaves_modes_as_they_were():
    norms = nn.BatchNorm1d(8).eval(), nn.BatchNorm1d(8)
    mixed = nn.Sequential(prune(nn.Linear(8, 8), 0.9), *norms, nn.Dropout())
    found = sparsify(mixed, torch.randn(4, 8)).network
    assert [module.training for module in found] == [True, False, True, True]
    assert not any(int(norm.num_batches_tracked) for norm in found[1:3])


def test_a_layer_that_stands_in_two_places_stays_one():
    tied = nn.Linear(8, 8)
    network = to_sparse(nn.Sequential(tied, nn.ReLU(), tied))
    assert network[0] is network[2]
    assert isinstance(network[0], SparseLinear)


def test_what_reads_weights_past_the_layer_stays_dense():
    attention = to_sparse(nn.MultiheadAttention(8, 2))
    attention(*[torch.randn(3, 1, 8)] * 3)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(UserError, match="no linear or convolution"):
        prune(normed, 0.5)


def test_survivors_that_are_zero_are_not_mistaken_for_missing_ones():
    layer = SparseLinear(40, 20, sparsity=0.5)
    with torch.no_grad():
        layer.weight[::2] = 0
    prune(layer, 0.6)
    assert layer.sparsity == pytest.approx(0.6)


def test_what_is_frozen_stays_frozen():
    dense = nn.Linear(4, 4)
    dense.weight.requires_grad_(False)
    sparse = SparseLinear.from_dense(dense)
    assert (sparse.weight.requires_grad, sparse.bias.requires_grad) == (False, True)
    again = sparse.to_dense()
    assert (again.weight.requires_grad, again.bias.requires_grad) == (False, True)


def test_nothing_to_time_is_said():
    assert "no layer" in str(sparsify(network(), torch.randn(2, 1, 4, 4)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: prune(nn.ReLU(), 0.5), "no linear or convolution"),
        (lambda: prune(network(), 1.0), "below 1"),
        (lambda: prune(network(), None), "sparsity"),
        (lambda: prune(network(), 0.5, "best"), "uniform"),
        (lambda: prune(network(), how="2:4"), "skip it"),
        (lambda: prune(network(), 0.9, "2:4"), "leave sparsity out"),
        (lambda: prune(network(), how="5:4"), "from 1 to M"),
        (lambda: prune(network(), how="a:4"), "two whole numbers"),
        (lambda: prune(network(), 0.5, skip=["9"]), "no layer '9'"),
        (lambda: GradualPruning(network(), 0.9, begin=0, end=10), "to_sparse"),
        (lambda: GradualPruning(to_sparse(network()), 0.9, begin=10, end=10), "after it begins"),
        (lambda: DynamicSparseTraining(network(), end=10), "no sparse layer"),
        (lambda: DynamicSparseTraining(to_sparse(network()), end=10, fraction=0.0), "fraction"),
        (lambda: sparsify(network(), torch.randn(2, 1, 4, 4), above=2.0), "share"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(make, match):
    with pytest.raises(UserError, match=match):
        make()
