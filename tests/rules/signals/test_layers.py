"""The mechanism: layers are found, cut apart, and taught by their own vector-Jacobian products."""

import subprocess
import sys

import pytest
import torch
from signal_networks import NETWORKS, Doubled, Encoder, Residual, back_propagated, gradients, make
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from beyondprop.rules.signals.chained import chained, own_derivative
from beyondprop.rules.signals.layers import Call, find_layers


@pytest.mark.parametrize("name", NETWORKS)
def test_back_propagation_in_it_is_autograds_to_the_bit(name):
    network, x, y = make(name)
    expected = back_propagated(network, x, y)
    with chained(find_layers(network), own_derivative, with_gradient=True):
        loss = F.cross_entropy(network(x), y)
    loss.backward()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    for parameter, gradient in gradients(network).items():
        assert gradient is not None, parameter
        assert torch.equal(gradient, expected[parameter]), parameter


def test_a_network_that_is_not_compiled_needs_nothing_of_the_compiler():
    """Whose import takes seconds; training has it from the optimizer, and predicting does not need it."""
    code = (
        "import sys, torch; from beyondprop import DFA; x = torch.ones(2, 4); "
        "network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)); "
        "DFA.for_classifier(network, x, 2).backward(x, torch.zeros(2, dtype=torch.long)); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["perceptron", "residual", "own layer"])
def test_gradient_of_the_input_is_autograds_too(name):
    network, x, y = make(name)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(network(x), y), x)
    with chained(find_layers(network), own_derivative, with_gradient=True):
        loss = F.cross_entropy(network(x), y)
    (found,) = torch.autograd.grad(loss, x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_passes_a_layer_that_does_not_pass_it_on(name):
    network, x, y = make(name)
    layers = find_layers(network)

    with chained(layers, lambda call, signals: [None for _ in call.given]):
        loss = F.cross_entropy(network(x), y)
    loss.backward()
    taught = {name for name, layer in layers.items() if any(p.grad is not None for p in layer.parameters())}
    assert taught == {list(layers)[-1]}


def names(network, whole=()):
    return list(find_layers(network, whole))


def test_layers_are_what_has_weights_of_its_own():
    assert names(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.PReLU(), Doubled(2), nn.ReLU())) == ["0", "3"]
    assert names(Residual(3)) == ["first", "second"]
    parts = ("self_attn", "linear1", "linear2")
    assert names(Encoder()) == ["words", *(f"layers.{i}.{part}" for i in range(2) for part in parts), "head"]
    assert names(nn.Linear(2, 3)) == [""]
    assert names(nn.Sequential(nn.ReLU(), nn.LayerNorm(2))) == []


def test_modules_can_be_taken_whole():
    assert names(Encoder(), (nn.TransformerEncoderLayer,)) == ["words", "layers.0", "layers.1", "head"]


def test_a_module_in_two_places_is_one_layer():
    layer = nn.Linear(2, 2)
    assert names(nn.Sequential(layer, nn.ReLU(), layer)) == ["0"]


def test_a_parametrised_layer_is_one_layer():
    network = nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 3))
    assert names(network) == ["0", "2"]
    x, y = torch.randn(5, 3), torch.randint(3, (5,))
    expected = back_propagated(network, x, y)
    with chained(find_layers(network), own_derivative, with_gradient=True):
        loss = F.cross_entropy(network(x), y)
    loss.backward()
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(network).items())


def test_keyword_arguments_and_nested_outputs_are_cut():
    """Torch's own attention has its inputs by keyword and gives a pair of which the second may be None."""

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.into = nn.Linear(4, 4)
            self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            h = self.into(x)
            return self.attend(query=h, key=h, value=h, need_weights=False)[0].mean(dim=1)

    torch.manual_seed(0)
    network, x, y = Attends(), torch.randn(2, 3, 4), torch.randint(4, (2,))
    expected = back_propagated(network, x, y)
    calls = []

    def pass_on(call, signals):
        calls.append((call.name, len(call.given)))
        return own_derivative(call, signals)

    with chained(find_layers(network), pass_on, with_gradient=True):
        loss = F.cross_entropy(network(x), y)
    loss.backward()
    assert calls == [("attend", 1)]  # the three are one tensor, and the data carry no graph
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(network).items())


def test_frozen_layers_pass_signals_on():
    network, x, y = make("perceptron")
    network[2].requires_grad_(False)
    expected = back_propagated(network, x, y)
    with chained(find_layers(network), own_derivative, with_gradient=True):
        loss = F.cross_entropy(network(x), y)
    loss.backward()
    assert network[2].weight.grad is None
    assert torch.equal(network[0].weight.grad, expected["0.weight"])


def test_a_call_frees_its_graph_once_taught():
    call = Call("layer", nn.Linear(2, 2))
    assert call.edges == []
    call.teach([])  # a frozen layer has nothing to be taught
