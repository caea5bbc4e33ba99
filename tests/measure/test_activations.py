import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.measure.activations import hidden_activations


def test_every_layer_but_the_first_is_looked_into():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    x = torch.randn(7, 2, 3)
    found = hidden_activations(network, x)
    assert list(found) == ["1", "3"]
    first = torch.tanh(network[1](x.flatten(1)))
    assert torch.equal(found["1"], first)
    assert torch.equal(found["3"], torch.relu(network[3](first)))
    assert not found["1"].requires_grad


def test_images_become_rows_of_neurons():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten())
    network.append(nn.Linear(4 * 2 * 2, 3))
    x = torch.randn(5, 1, 8, 8)
    found = hidden_activations(network, x)
    assert {name: value.shape for name, value in found.items()} == {"0": (5, 72), "2": (5, 16)}
    assert torch.equal(found["0"], torch.relu(network[0](x)).flatten(1))


class Block(nn.Module):
    """A branch and a shortcut that read the same tensor."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.shortcut = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 5)
        self.beside, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = F.relu(self.stem(x))
        return self.head(F.relu(self.branch(h) + self.shortcut(h) + self.beside(x)))


def test_what_several_layers_read_counts_once_and_the_input_never():
    network, x = Block(), torch.randn(3, 4)
    found = hidden_activations(network, x)
    assert {name: value.shape for name, value in found.items()} == {"stem": (3, 6), "beside": (3, 5)}


class Unrolled(nn.Module):
    """A cell three times, as a recurrent network has it."""

    def __init__(self):
        super().__init__()
        self.into, self.cell, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.into(x))
        for _ in range(3):
            h = torch.tanh(self.cell(h))
        return self.head(h)


def test_of_a_layer_that_is_evaluated_several_times_the_first_counts():
    network, x = Unrolled(), torch.randn(5, 4)
    found = hidden_activations(network, x)
    assert list(found) == ["into", "cell"]
    start = torch.tanh(network.into(x))
    assert torch.equal(found["into"], start)
    assert torch.equal(found["cell"], torch.tanh(network.cell(start)))


def test_the_network_is_evaluated_without_a_trace():
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(hidden_activations(network, x)["0"], hidden_activations(network, x)["0"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
