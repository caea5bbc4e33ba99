"""Small stacks of Hamiltonian units in float64, their echoes, and back-propagation through time written out."""

import math
from functools import partial

import torch
from torch import nn

from beyondprop.layers.hamiltonian import Hamiltonian, LinearHRU, NonlinearHRU
from beyondprop.networks.hamiltonian import HamiltonianNetwork
from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho

UNITS = {"linear": LinearHRU, "nonlinear": NonlinearHRU}
POOLING = ("mean", "last", "every")


class Pendulums(Hamiltonian):
    """Of the user's own: a potential that is not quadratic, relativistic momenta, weights in both."""

    def __init__(self, inputs, size, **options):
        super().__init__(inputs, size, **options)
        self.length = nn.Parameter(0.5 + torch.rand(size))
        self.push = nn.Parameter(torch.randn(inputs, size) / 2)
        self.mass = nn.Parameter(1 + torch.rand(size))

    def potential(self, phi, u):
        return (self.length * (1 - phi.cos()) - phi * (u @ self.push)).sum(-1)

    def kinetic(self, pi):
        return (self.mass.square() + pi.square()).sqrt().sum(-1)


def by_hand(network, x):
    """The same network by the three substeps as the paper has them, one after another, under autograd."""
    h = network.encoder(x.transpose(0, 1))
    for unit, behind in zip(network.units, network.between, strict=True):
        half, phi = unit.step / 2, h.new_zeros(h.shape[1], unit.size)
        pi, positions = phi, []
        for u in h:
            phi = phi + half * derivative(unit.kinetic, pi)
            pi = pi - unit.step * derivative(partial(unit.potential, u=u), phi)
            phi = phi + half * derivative(unit.kinetic, pi)
            positions.append(phi)
        out = behind(torch.stack(positions))
        h = out + h if network.residual else out
    if network.pooling == "every":
        return network.readout(h).transpose(0, 1)
    return network.readout(h.mean(0) if network.pooling == "mean" else h[-1])


def derivative(energy, at):
    at = at if at.requires_grad else at.clone().requires_grad_()
    return torch.autograd.grad(energy(at).sum(), at, create_graph=True)[0]


def stack(kind, pooling, *, residual=False):
    first, second = kind(5, 7, step=0.7), kind(5, 6, step=1.1)
    between = [nn.Sequential(nn.Linear(7, 10), nn.GLU()), nn.Sequential(nn.Linear(6, 5), nn.Tanh())]
    return HamiltonianNetwork(
        [first, second], nn.Linear(5, 4), encoder=nn.Linear(3, 5), between=between, pooling=pooling, residual=residual
    ).double()


def batch(pooling, count=6, steps=23):
    x = torch.randn(count, steps, 3, dtype=torch.float64)
    if pooling == "every":
        return x, torch.randn(count, steps, 4, dtype=torch.float64), nn.MSELoss()
    return x, torch.randint(4, (count,)), nn.CrossEntropyLoss()


def through_time(network, x, y, loss):
    """The loss and its gradients by parameters and inputs, by autograd through the substeps."""
    x = x.clone().requires_grad_()
    value = loss(by_hand(network, x), y)
    return value.detach(), torch.autograd.grad(value, [*network.parameters(), x])


def echoed(network, x, y, loss, **options):
    x = x.clone().requires_grad_()
    network.zero_grad()
    value = RecurrentEcho(network, loss, **options).backward(x, y)
    found = [p.grad.clone() for p in network.parameters()] + [x.grad]
    network.zero_grad()
    return value, found


def distance(found, expected):
    gaps = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    return (gaps / sum(float(b.square().sum()) for b in expected)) ** 0.5


def slope(sizes, errors):
    """Of the straight line through the logarithms of two errors."""
    return math.log(errors[0] / errors[1]) / math.log(sizes[0] / sizes[1])
