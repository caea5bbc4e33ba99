"""Quaternion back-propagation: what makes a rule of a real classifier; the calculus is tested with the layers."""

import pytest
import torch
from torch import nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.layers.quaternion import QuaternionLinear
from beyondprop.rules.signals.quaternion import QuaternionBackprop

X, Y = torch.ones(2, 8), torch.tensor([0, 2])


def real():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def test_a_copy_is_converted_and_the_classifier_stays_as_it_was():
    network = real()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rule = QuaternionBackprop.for_classifier(network, X, 3)
    assert isinstance(rule.network[0], QuaternionLinear)
    assert isinstance(rule.network[2], nn.Linear)
    assert type(network[0]) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_its_gradients_are_those_of_the_converted_network_and_of_the_given_loss():
    rule = QuaternionBackprop.for_classifier(real(), X, 3, loss=nn.CrossEntropyLoss(label_smoothing=0.3))
    loss = rule.backward(X, Y)
    expected = nn.functional.cross_entropy(rule.network(X), Y, label_smoothing=0.3)
    gradients = torch.autograd.grad(expected, list(rule.network.parameters()))
    assert loss == pytest.approx(expected.item())
    for parameter, gradient in zip(rule.network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_what_cannot_be_converted_is_named_beforehand():
    odd = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    reason = QuaternionBackprop.supports_classifier(odd, X)
    assert "does not divide by four" in reason
    with pytest.raises(UnsupportedNetworkError, match="does not divide by four"):
        QuaternionBackprop.for_classifier(odd, X, 3)
    assert QuaternionBackprop.supports_classifier(real(), X) is None
