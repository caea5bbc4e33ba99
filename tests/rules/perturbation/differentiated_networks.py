"""Small networks of every kind in float64, and their gradients by back-propagation."""

import torch
from torch import nn
from torch.nn import functional as F


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.read = nn.Linear(6, 2)

    def forward(self, x):
        return self.read(self.encoder(x).mean(dim=1))


NETWORKS = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (3,)),
    "convolutional": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2)),
        (1, 4, 4),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        (3,),
    ),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)), (3,)),
    "attention": (Attending, (5, 6)),
}


def make(name, count=6):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    return build().double(), torch.randn(count, *shape).double(), torch.arange(count) % 2


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def gradient_of(rule):
    return flat(p.grad for p in rule.network.parameters())


def true_gradient(network, x, y):
    return flat(torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters())))
