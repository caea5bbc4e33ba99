"""Rules of equilibrium propagation on small networks: a sequence of layers, a deep one, and a user's own."""

import torch
from settling_networks import shrunk
from torch import nn
from torch.nn import functional as F

from beyondprop.layers.hard_sigmoid import HardSigmoid
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
from beyondprop.rules.relaxation.settling import PrimitiveNetwork

READOUTS = ("softmax", "squared")
LONG = {"free_steps": 300, "nudged_steps": 300}


class Hopfield(PrimitiveNetwork):
    """A user's own: all units hear of all others, Phi = s'Js/2 + (Wx + b)'s, and three of them are read."""

    def __init__(self, inputs: int = 4, units: int = 9) -> None:
        super().__init__()
        self.couplings = nn.Parameter(0.1 * torch.randn(units, units))
        self.into = nn.Linear(inputs, units)

    def initial_states(self, inputs):
        return [inputs.new_zeros(len(inputs), self.into.out_features)]

    def primitive(self, inputs, states):
        (s,) = states
        return (s * (s @ self.couplings)).sum(1) / 2 + (s * self.into(inputs)).sum(1)

    def squash(self, drives):
        return [torch.tanh(drive) for drive in drives]

    def scores(self, inputs, states):
        return states[0][:, :3]

    def cost(self, inputs, states, y):
        return F.cross_entropy(self.scores(inputs, states), y, reduction="none")


def make(layers, x, readout="softmax", order="even-odd", **options):
    return EquilibriumPropagation(ConvergentNetwork(layers, x[:2], readout=readout, order=order), **options)


def deep(kind, classes=3, gain=0.7):
    """Nets of so many states that a nudge takes a while to the first one: four convolutions, or five linear layers."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    layers: list[nn.Module] = []
    if kind == "convolutional":
        for channels, padding in ((3, 1), (8, 1), (8, 1), (8, 0)):
            layers += [nn.Conv2d(channels, 8, 3, padding=padding), nn.MaxPool2d(2), HardSigmoid(2.0)]
        layers += [nn.Flatten(), nn.Linear(8, classes)]
        x = torch.randn(5, 3, 32, 32, generator=generator, dtype=torch.float64)
    else:
        for width in (16, 20, 20, 20, 20):
            layers += [nn.Linear(width, 20), nn.Tanh()]
        layers += [nn.Linear(20, classes)]
        x = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    return shrunk(nn.Sequential(*layers), gain), x, torch.randint(classes, (5,), generator=generator)
