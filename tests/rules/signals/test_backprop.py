"""The baseline is back-propagation to the bit."""

import pytest
import torch
from torch import nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rules.signals.backprop import Backprop


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.BatchNorm1d(6), nn.Linear(6, 3))


def test_gradients_are_autograds_and_accumulate(network):
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    loss = nn.CrossEntropyLoss()(network(x), y)
    expected = torch.autograd.grad(loss, list(network.parameters()))
    rule = Backprop(network)
    found = rule.backward(x, y)
    assert torch.equal(found, loss.detach())
    assert not found.requires_grad
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)
    rule.backward(x, y)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_any_loss_of_output_and_target(network):
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    rule = Backprop(network, nn.MSELoss())
    assert torch.equal(rule.backward(x, y), nn.functional.mse_loss(network(x), y).detach())


def test_not_finite_names_the_first_layer_and_adds_nothing(network):
    with torch.no_grad():
        network[3].weight[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="layer 3"):
        Backprop(network).backward(torch.randn(5, 4), torch.randint(3, (5,)))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(("labels", "words"), [([0, 3], "0..2, got 3"), ([-1, 0], "got -1")])
def test_label_out_of_range_is_refused_by_the_default_loss(network, labels, words):
    with pytest.raises(UserError, match=words):
        Backprop(network).backward(torch.randn(2, 4), torch.tensor(labels))


def test_class_probabilities_are_targets_too(network):
    x, p = torch.randn(5, 4), torch.rand(5, 3).softmax(dim=1)
    assert torch.equal(Backprop(network).backward(x, p), nn.functional.cross_entropy(network(x), p).detach())


def test_nan_in_the_data_is_told_from_a_broken_layer(network):
    x = torch.randn(5, 4)
    x[2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="the input"):
        Backprop(network).backward(x, torch.randint(3, (5,)))


@pytest.mark.parametrize("labels", [[[0, 1, 0], [1, 0, 0]], [[0], [2]]], ids=["one-hot integers", "a column"])
def test_labels_of_another_shape_are_refused_by_the_default_loss(network, labels):
    with pytest.raises(UserError, match="class indices of shape"):
        Backprop(network).backward(torch.randn(2, 4), torch.tensor(labels))


@pytest.mark.parametrize(
    ("loss", "words"),
    [("mse", "got str"), (nn.MSELoss, "got the class MSELoss"), (torch.zeros(2, 4), "got Tensor")],
)
def test_a_loss_that_is_no_function_is_refused(network, loss, words, one_line):
    with one_line(UserError, "loss must map", words):
        Backprop(network, loss)


def test_targets_that_the_cross_entropy_cannot_mean_are_told(network, one_line):
    x = torch.randn(5, 4)
    with one_line(UserError, "class indices or probabilities", "nn.MSELoss()"):
        Backprop(network).backward(x, -torch.rand(5, 3))
    Backprop(network).backward(x, torch.rand(5, 3).softmax(dim=1))
    with one_line(UserError, "labels of every step, (5, 7), for scores (5, 7, 3)", "step_cross_entropy"):
        Backprop(nn.Linear(4, 3)).backward(torch.randn(5, 7, 4), torch.zeros(5, 7, dtype=torch.long))
    Backprop(nn.Conv1d(4, 3, 1)).backward(torch.randn(5, 4, 7), torch.zeros(5, 7, dtype=torch.long))


def test_nan_in_the_input_is_the_datas_fault_alone(network, one_line):
    with one_line(NonFiniteError, "first in the input: clean the data"):
        Backprop(network).backward(torch.full((5, 4), torch.nan), torch.zeros(5, dtype=torch.long))
