"""Sparse back-propagation as a rule: equal to back-propagation on the survivors, and resumed to the same bits."""

import copy

import pytest
import torch
from torch import nn

from beyondprop import Backprop, GradualPruning, SparseProp, prune, to_sparse
from beyondprop.data import Batches, image_set
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.layers.sparse import DynamicSparseTraining, SparseLinear
from beyondprop.rules.signals.sparseprop import outer_layers, random_masks
from beyondprop.training.loop import fit
from beyondprop.training.run_folder import RunFolder


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))


def test_gradients_are_those_of_back_propagation_on_the_survivors():
    sparse = prune(to_sparse(perceptron()), 0.8)
    for layer in sparse[::2]:
        layer.kernels_from = 0.0
    dense = nn.Sequential(*(layer.to_dense() if isinstance(layer, SparseLinear) else layer for layer in sparse))
    x, y = torch.randn(9, 12), torch.randint(3, (9,))
    ours, theirs = SparseProp(sparse), Backprop(dense)
    torch.testing.assert_close(ours.backward(x, y), theirs.backward(x, y))
    for one, other in zip(sparse[::2], dense[::2], strict=True):
        torch.testing.assert_close(one.weight.grad, other.weight.grad[one.mask])
        torch.testing.assert_close(one.bias.grad, other.bias.grad)


def test_a_random_mask_keeps_the_size_of_outputs():
    torch.manual_seed(0)
    dense = nn.Linear(400, 300, bias=False)
    sparse = random_masks(copy.deepcopy(dense), 0.9, skip=0)
    x = torch.randn(500, 400)
    assert sparse.weight.numel() == 12_000
    with torch.no_grad():
        ratio = float(sparse(x).std() / dense(x).std())
    assert ratio == pytest.approx(1, abs=0.03)


def test_outer_layers_stay_dense_where_others_are_left():
    network = perceptron()
    assert outer_layers(network, 1) == ["0", "4"]
    assert outer_layers(network, 0) == []
    assert outer_layers(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), 1) == []


def test_networks_without_sparse_layers_are_refused():
    with pytest.raises(UnsupportedNetworkError, match="no layer is sparse"):
        SparseProp(perceptron())
    with pytest.raises(UserError, match="sparse already"):
        random_masks(to_sparse(perceptron()), 0.5, 0)
    with pytest.raises(UserError, match="below 1"):
        random_masks(perceptron(), 1.0, 0)


class Stopped(BaseException):
    pass


class StopBefore:
    def __init__(self, step):
        self.step = step

    def before_step(self, step, optimizer):
        if step == self.step:
            raise Stopped

    def after_step(self, step, optimizer):
        pass


def gradual(network):
    return GradualPruning(network, 0.9, begin=3, end=10, every=2)


def exchange(network):
    return DynamicSparseTraining(network, end=12, every=2)


def exchange_by_gradient(network):
    return DynamicSparseTraining(network, end=12, every=2, growth="gradient")


@pytest.mark.parametrize("schedule", [gradual, exchange, exchange_by_gradient])
def test_a_training_whose_masks_change_is_resumed_to_the_same_bits(tmp_path, schedule):
    torch.manual_seed(1)
    data = image_set(torch.randn(60, 12), torch.randint(3, (60,)))

    def train(folder, *others):
        network = to_sparse(perceptron()) if schedule is gradual else random_masks(perceptron(), 0.8, 0)
        rule = SparseProp(network)
        optimizer = torch.optim.AdamW(rule.parameters(), lr=0.01)
        with RunFolder(folder, {"epochs": 3}, resume=True) as run:
            fit(
                rule,
                Batches(data, 12, shuffle=True, seed=3),
                optimizer=optimizer,
                epochs=3,
                run=run,
                checkpoint_seconds=0,
                progress=False,
                callbacks=[schedule(network), *others],
            )
        return rule.state_dict(), [dict(state) for state in optimizer.state.values()]

    whole = train(tmp_path / "whole")
    for stop in (2, 5, 8, 11):
        with pytest.raises(Stopped):
            train(tmp_path / str(stop), StopBefore(stop))
        torch.manual_seed(99)
        again = train(tmp_path / str(stop))
        assert all(torch.equal(again[0][name], value) for name, value in whole[0].items()), stop
        for one, other in zip(again[1], whole[1], strict=True):
            assert all(torch.equal(one[name], value) for name, value in other.items())
